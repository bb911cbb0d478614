"""Two servers that share a run directory, over TLS on loopback: the first is killed or stopped, the second goes on."""

from __future__ import annotations

import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from plait.api.serving import Serving
from plait.api.standing import Standing
from plait.errors import ConfigError
from plait.queue import State
from tests.deployment.conftest import TRAINING, plait
from tests.deployment.standing import WRITERS, Federation, three_runs
from tests.deployment.standing import simulated as simulated_queue

pytestmark = pytest.mark.slow

SHARED = ("--standby", "--silent-s", "2", "--rounds", "3", "--eval-every", "3")
NAMES = ("alice", "bob", "carol")


@pytest.fixture
def two(deployment, free_port):
    """A first server, three clients that know both, and a second that stands by; gives how to start one."""
    ports = {"server": deployment.port, "second": free_port()}
    folder = deployment.folder / "server"

    def start(name: str) -> None:
        (deployment.folder / name).mkdir(exist_ok=True)
        deployment.processes[name] = plait(
            "server", "--kit", deployment.federation / "server", "--listen", f"127.0.0.1:{ports[name]}",
            "--min-clients", len(NAMES), "--out", folder / "run", *TRAINING, *SHARED,
            folder=deployment.folder / name, output=deployment.output(name),
        )  # fmt: skip

    start("server")
    deployment.until(lambda: "serving on" in deployment.printed("server"))
    start("second")
    deployment.until(lambda: "standing by; " in deployment.printed("second"))
    for name in NAMES:
        deployment.join(name, "--server", ",".join(f"localhost:{port}" for port in ports.values()))
    return deployment


def test_a_second_server_takes_over_from_one_that_is_killed_and_nobody_trains_a_round_twice(two, simulated):
    two.stop_in_training("bob", 2)
    two.until(lambda: two.events("update_received", round=2, client="alice"))
    two.signal("server", signal.SIGKILL)
    two.until(lambda: "serving on" in two.printed("second"))
    two.signal("bob", signal.SIGCONT)
    two.finish(("second", *NAMES))
    _ended_as_the_simulation(two, simulated)


def test_a_stopped_server_that_comes_back_after_another_took_over_writes_nothing_and_ends_in_one_line(two, simulated):
    two.stop_in_training("bob", 2)
    two.until(lambda: two.events("update_received", round=2, client="alice"))
    two.signal("server", signal.SIGSTOP)
    # The file that the first has open; the second goes on in a copy.
    opened = two.folder / "opened"
    opened.hardlink_to(two.run / "ledger.jsonl")
    written = opened.read_bytes()
    two.until(lambda: "serving on" in two.printed("second"))
    before, said = _files(two.run), two.printed("server")
    two.signal("server", signal.SIGCONT)
    assert two.processes["server"].wait(120) == 1
    # Before that it may still say who has left.
    *_, last = rest = two.printed("server").removeprefix(said).splitlines()
    assert not [line for line in rest[:-1] if line.startswith(("error", "Traceback", " ")) or "event=disk" in line]
    assert "has taken over" in last
    assert "it has written nothing since" in last
    # The second waits for bob, who stands still, and only its ledger grows.
    assert _files(two.run) == before
    assert opened.read_bytes() == written
    two.signal("bob", signal.SIGCONT)
    two.finish(("second", *NAMES))
    _ended_as_the_simulation(two, simulated)


def _files(run: Path) -> dict[str, bytes]:
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and ".lease" not in path.parts and path.name not in ("ledger.jsonl", "server.log")
    }


def _ended_as_the_simulation(deployment, simulated) -> None:
    reference = simulated("--rounds", "3", "--eval-every", "3")
    assert deployment.adapter == (reference / "adapter" / "adapter_model.safetensors").read_bytes()
    received = Counter((line["round"], line["client"]) for line in deployment.events("update_received"))
    assert received == {(number, name): 1 for number in (1, 2, 3) for name in NAMES}
    assert len(deployment.events("resumed")) == 1
    for name in NAMES:
        begun = re.findall(r"^\S+ round (\d+): training$", deployment.printed(name), re.MULTILINE)
        assert begun == ["1", "2", "3"], deployment.printed(name)


def test_a_second_server_goes_on_with_the_queue_of_one_that_is_killed(tmp_path):
    federation = Federation.make(tmp_path)
    asked = three_runs(tmp_path)["ruled"]
    try:
        federation.start("--standby", "--silent-s", "1")
        first = federation.server
        for name in WRITERS:
            federation.join(name)
        federation.until(lambda: "serving on" in federation.printed())
        federation.start("--standby", "--silent-s", "1")
        federation.until(lambda: "standing by; " in federation.printed())
        federation.until(lambda: federation.are_here(WRITERS))
        run = federation.caught_in_mid_round("shared", asked)
        first.kill()
        federation.until(lambda: federation.events(run).count("resumed"))
        federation.clients["alice"].send_signal(signal.SIGCONT)
        assert federation.over(run).state is State.FINISHED
        assert federation.weights(run) == simulated_queue(asked, tmp_path / "simulated")
        assert set(federation.trainings().values()) == {1}
        with pytest.raises(ConfigError, match=r"is shared by servers, expected `plait server --standby`"):
            Standing(federation.directory, Serving("127.0.0.1:0", "", "", 30.0, 0), quiet=True)
    finally:
        federation.end()
