"""A standing server in this process, without clients, and an operator's calls to it."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.api.serving import Serving
from plait.config import config_from_table
from plait.errors import ConfigError, MachineError, PeerError
from plait.system.address import Address
from plait.transport.protocol import CHUNK_BYTES
from server.standing import RunQueue, RunQueueServer, State, calls_of, read_queue
from server.standing_verbs import OperatorCalls

RUN = {"base": "tiny", "clients": 2, "rounds": 3, "rank": 8}


def serving(listen: str = "127.0.0.1:0") -> Serving:
    return Serving(listen=listen, kit="", metrics="", grace_s=1.0, run_number=0)


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[RunQueueServer]:
    made = RunQueueServer(tmp_path / "federation", serving(), quiet=True)
    yield made
    made.channel.stop()
    made._queue.close()


@pytest.mark.parametrize(
    ("key", "value"), [("publish", "http://127.0.0.1:9"), ("callbacks", "evil:part"), ("init_adapter", "/etc")]
)
def test_a_run_in_a_queue_of_somebody_else_s_names_nothing_either(standing, monkeypatch, key, value):
    monkeypatch.setattr("server.standing.open_served_run", lambda *_, **__: pytest.fail("it was served"))
    standing._queue.submit(config_from_table({**RUN, key: value}, where="test").to_table(), number=7, name="theirs")
    entry = standing._queue.begin_next(wait_s=0.0)
    standing._serve(entry)
    ended = standing._queue.entry("theirs")
    assert ended.state is State.FAILED
    assert f"must not have {key.replace('_', '-')}" in ended.detail


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (json.dumps({**RUN, "base": "x" * 16384}), "settings have 16434 characters"),
        ("[1]", "text of the settings is a JSON list, expected an object"),
        ("{", "text of the settings is not JSON"),
        (json.dumps({**RUN, "ranc": 4}), "submitted settings: unknown key 'ranc'; did you mean 'rank'"),
        (json.dumps({**RUN, "publish": "/tmp/x"}), "must not have publish"),
        (json.dumps({**RUN, "init-adapter": "/etc"}), "must not have init-adapter"),
        (json.dumps({**RUN, "rule": "my_rules:Mine"}), "my_rules"),
    ],
)
def test_settings_that_cannot_be_a_run_are_refused_in_one_line_and_not_written(standing, tmp_path, config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        standing.submit(config)
    assert "\n" not in str(caught.value)
    assert read_queue(tmp_path / "federation") == []


def test_a_second_server_of_one_directory_is_refused(standing, tmp_path):
    del standing
    with pytest.raises(ConfigError, match="federation' is being served by another process"):
        RunQueueServer(tmp_path / "federation", serving(), quiet=True)


def test_a_port_that_is_taken_is_no_fault_of_the_run_that_was_being_served(tmp_path, monkeypatch):
    queue = RunQueue(tmp_path / "federation")
    queue.submit(config_from_table(RUN).to_table(), number=7, name="going")
    queue.begin_next(wait_s=1)
    queue.close()
    monkeypatch.setattr("server.standing.open_served_run", lambda *_, **__: object())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(MachineError, match=listen):
            RunQueueServer(tmp_path / "federation", serving(listen), quiet=True).serve()
    assert [entry.state for entry in read_queue(tmp_path / "federation")] == [State.RUNNING]


class OneRun:
    """Has the files of one run."""

    def __init__(self, *files: Path) -> None:
        self._files = files

    def files(self, run: str) -> list[tuple[str, Path]]:
        assert run == "run-1"
        return [(f"adapter/{path.name}.json", path) for path in self._files]


@pytest.fixture
def fetch(make_channel, tmp_path):
    def fetch(*files, max_gb=1.0):
        channel = make_channel(stays=True, more=calls_of(OneRun(*files)))
        calls = OperatorCalls(Address.parse(channel.address, what="server"), None)
        return calls.fetch("run-1", tmp_path / "fetched", max_gb=max_gb)

    return fetch


def test_a_file_of_several_parts_and_an_empty_one_arrive_whole(fetch, tmp_path):
    large, empty = tmp_path / "large", tmp_path / "empty"
    large.write_bytes(bytes(range(256)) * (CHUNK_BYTES // 128) + b"end")
    empty.touch()
    fetched = fetch(large, empty)
    assert [(tmp_path / "fetched" / file).read_bytes() for file in fetched] == [large.read_bytes(), b""]
    with pytest.raises(ConfigError, match="exists, give a new directory"):
        fetch(large)


def test_a_file_that_the_server_cannot_read_is_named_and_nothing_is_left(fetch, tmp_path):
    with pytest.raises(MachineError, match=r"server cannot read 'adapter/gone.json': No such file"):
        fetch(tmp_path / "gone")
    assert not (tmp_path / "fetched").exists()


def test_a_run_that_is_larger_than_allowed_is_not_fetched(fetch, tmp_path):
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        file.write_bytes(bytes(600_000))
    with pytest.raises(PeerError, match=r"more than 0.001 GB with 'adapter/two.json'; give --max-gb"):
        fetch(*files, max_gb=0.001)
    with pytest.raises(PeerError, match="more than nan GB"):
        fetch(*files, max_gb=float("nan"))
    assert not (tmp_path / "fetched").exists()
    assert len(fetch(*files, max_gb=0.0012)) == 2
