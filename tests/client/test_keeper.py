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

    def start(path: Path, keep_s: float) -> None:
        threads.append(threading.Thread(target=serve, args=(path, keep_s, participants)))
        threads[-1].start()

    def kept(keep_s: float) -> Kept:
        told = Kept.of(context_of(tmp_path, **{"keep-s": 1}))
        return Kept(told.context, told.path, keep_s, start)

    yield kept, threads, participants
    for thread in threads:
        thread.join(10)


def test_one_process_answers_all_tasks_and_ends_when_none_comes(keeping):
    kept, threads, participants = keeping
    client = kept(0.3)
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


def test_the_socket_is_its_users_alone(keeping):
    kept, _, _ = keeping
    client = kept(0.3)
    client.answer(b"a task")
    assert client.path.parent.stat().st_mode & 0o077 == 0


def test_a_second_process_finds_the_first_and_ends(keeping, tmp_path):
    kept, _, participants = keeping
    client = kept(0.3)
    client.answer(b"a task")
    serve(client.path, 60, participants)
    assert client.answer(b"a task") == b"7 5 ada 3 a task"


def test_a_process_that_ends_during_a_task_is_asked_twice_and_no_more(tmp_path):
    def gone(_context):
        raise ConnectionResetError

    def start(path, keep_s):
        threading.Thread(target=serve, args=(path, 0.2, gone)).start()

    told = Kept.of(context_of(tmp_path, **{"keep-s": 1}))
    with pytest.raises(MachineError, match="twice"):
        Kept(told.context, told.path, 1, start).answer(b"a task")


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
