"""A standing federation's server in a program, with clients of the same process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import plait
from plait.errors import ConfigError, MachineError
from plait.features.standing.run_queue import RunQueue
from tests.attending import attend
from tests.plait.api.test_federation import WEIGHTS, shares, training  # noqa: F401 (fixtures)


@pytest.mark.slow
def test_it_serves_what_the_program_submits_and_cancels_what_it_likes(
    finished: Path,
    shares: dict[str, list[dict[str, str]]],  # noqa: F811 (a fixture)
    training: dict[str, object],  # noqa: F811 (a fixture)
    tmp_path: Path,
) -> None:
    settings = {key: value for key, value in training.items() if key != "out"}
    with plait.StandingServer(out=tmp_path / "federation", insecure=True, quiet=True) as server:
        first, second = server.submit(name="first", **settings), server.submit(priority=-1, **settings)
        clients = attend(server.address, shares, tmp_path)
        server.cancel(second)
        run = server.wait(first, timeout_s=600)
        states = {each["run"]: (each["state"], each["by"]) for each in server.runs()}
        with pytest.raises(MachineError, match="is cancelled"):
            server.wait(second)
        for client in clients:
            client.stop()
    assert run.finished
    assert (run.path / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()
    assert states == {first: ("finished", "(program)"), second: ("cancelled", "(program)")}


def test_it_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        plait.StandingServer(out=tmp_path / "federation")
    server = plait.StandingServer(insecure=True, quiet=True, out=tmp_path / "federation")
    for act in (lambda: server.submit(), lambda: server.runs(), lambda: server.cancel("run-1"), lambda: server.address):
        with pytest.raises(ConfigError, match="has not started, expected start or a with block before"):
            act()
    with server:
        with pytest.raises(ConfigError, match="run 'run-7' does not exist"):
            server.wait("run-7")
        with pytest.raises(ConfigError, match="data is given, expected none: clients bring their own"):
            server.submit(base="tiny", rounds=1, data="stdlib")
    for act in (lambda: server.submit(base="tiny", rounds=1), lambda: server.cancel("run-1")):
        with pytest.raises(ConfigError, match="has stopped, expected one that serves"):
            act()
    assert server.runs() == []


def test_a_run_that_it_stops_before_is_said_not_to_have_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunQueue, "begin_next", lambda self, *, wait_s: time.sleep(wait_s))
    with plait.StandingServer(insecure=True, quiet=True, out=tmp_path / "federation") as server:
        run = server.submit(clients=3, base="tiny", rounds=1)
    with pytest.raises(MachineError, match="run-1 has not begun, and the server has stopped"):
        server.wait(run)
