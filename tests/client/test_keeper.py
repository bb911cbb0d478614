import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import Context, RecordDict

from client.keeper import Kept, serve
from plait.errors import ConfigError, MachineError, PlaitError


def context_of(state: object = "", **node) -> Context:
    node_config = {"name": "ada", **node, **({"state": str(state)} if state else {})}
    return Context(run_id=7, node_id=5, node_config=node_config, state=RecordDict(), run_config={"rounds": 3})


class Participants:
    """Answers by what it was told of the context; some tasks fail."""

    def __init__(self):
        self.asked = 0

    def __call__(self, context):
        def answer(task_bytes):
            self.asked += 1
            if task_bytes == b"fail":
                raise PlaitError("for this reason")
            told = f"{context.run_id} {context.node_id} {context.node_config['name']} {context.run_config['rounds']} "
            return told.encode() + task_bytes

        return SimpleNamespace(answer=answer)


@pytest.fixture
def keeping(tmp_path: Path):
    """A client whose process that stays is a thread; a list of its starts."""
    participants, threads = Participants(), []

    def start(path: Path, keep_s: float):
        threads.append(thread := threading.Thread(target=serve, args=(path, keep_s, participants)))
        thread.start()
        return lambda: None if thread.is_alive() else 0

    def kept(keep_s: float) -> Kept:
        told = Kept.of(context_of(tmp_path, **{"keep-s": 1}))
        return Kept(told.context, told.path, keep_s, start)

    yield kept, threads, participants
    for thread in threads:
        thread.join(10)


@pytest.mark.slow
def test_one_process_answers_all_tasks_and_ends_when_none_comes(keeping):
    kept, threads, participants = keeping
    client = kept(3)
    large = bytes(range(256)) * 10_000
    assert client.answer(b"a task") == b"7 5 ada 3 a task"
    assert client.answer(large) == b"7 5 ada 3 " + large
    with pytest.raises(PlaitError, match="for this reason"):
        client.answer(b"fail")
    assert (len(threads), participants.asked) == (1, 3)
    threads[0].join()
    assert not client.path.exists()
    assert client.answer(b"later") == b"7 5 ada 3 later"
    assert len(threads) == 2


def test_the_socket_is_its_users_alone_in_whatever_directory_under_whatever_umask(keeping, tmp_path):
    kept, _, _ = keeping
    client = kept(0.3)
    tmp_path.chmod(0o777)
    before = os.umask(0)
    try:
        client.answer(b"a task")
    finally:
        os.umask(before)
    for path in (client.path, client.path.with_suffix(".lock")):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_socket_of_another_user_gets_no_task(keeping, monkeypatch):
    kept, _, participants = keeping
    client = kept(0.3)
    client.answer(b"a task")
    monkeypatch.setattr("client.keeper.os.geteuid", lambda: 4_000_000)
    with pytest.raises(MachineError, match="is of user"):
        client.answer(b"a task")
    assert participants.asked == 1


def test_one_that_cannot_start_is_told_at_once_and_one_that_finds_another_in_its_place_is_started_again(tmp_path):
    told = Kept.of(context_of(tmp_path, **{"keep-s": 1}))
    ends, started = [0, 1], []

    def start(path, keep_s):
        started.append(ends.pop(0))
        return lambda: started[-1]

    with pytest.raises(MachineError, match="no process answers"):
        Kept(told.context, told.path, 1, start).answer(b"a task")
    assert started == [0, 1]


@pytest.mark.slow
def test_a_second_process_finds_the_first_and_ends(keeping, tmp_path):
    kept, _, participants = keeping
    client = kept(3)
    client.answer(b"a task")
    serve(client.path, 60, participants)
    assert client.answer(b"a task") == b"7 5 ada 3 a task"


@pytest.mark.parametrize("error", [TimeoutError, ConnectionResetError])
def test_a_process_that_any_error_of_a_task_ends_is_asked_twice_and_no_more(tmp_path, error):
    def wrong(_context):
        raise error("of the task")

    told, raised, threads = Kept.of(context_of(tmp_path, **{"keep-s": 1})), set(), []

    def served(path):
        # One that still finds the last one's lock ends well.
        try:
            serve(path, 60, wrong)
        except error as caught:
            raised.add(str(caught))

    def start(path, keep_s):
        threads.append(thread := threading.Thread(target=served, args=(path,)))
        thread.start()
        return lambda: None if thread.is_alive() else 0

    with pytest.raises(MachineError, match="twice"):
        Kept(told.context, told.path, 1, start).answer(b"a task")
    for thread in threads:
        thread.join(10)
    assert raised == {"of the task"}


def test_other_versions_of_the_app_and_other_nodes_have_processes_of_their_own(tmp_path):
    paths = {Kept.of(context_of(tmp_path, **{"keep-s": 1, "data": data})).path for data in ("one", "two")}
    assert len(paths) == 2


@pytest.mark.parametrize(
    ("node", "what"),
    [({"keep-s": 5}, "expected state"), ({"keep-s": "5", "state": "s"}, "whole seconds"), ({"keep-s": -1}, "whole")],
)
def test_a_node_that_cannot_keep_one_says_so(node, what):
    with pytest.raises(ConfigError, match=what):
        Kept.of(context_of(**node))


def test_a_node_that_does_not_ask_for_one_has_none():
    assert Kept.of(context_of("state")) is None
