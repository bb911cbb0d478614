"""Flower's own engines, started by the commands of simulations/flower, against plait's in-process simulation."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.ledger.ledger import read_lines
from plait.settings.table import read_config_table
from tests.commands import run_command

pytestmark = [pytest.mark.flower, pytest.mark.slow]

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = CHECKOUT / "simulations" / "flower"
ROUNDS = 2
LONGEST_S = 900
NEEDED = ("bash", "curl", "openssl", "ssh-keygen")


@pytest.fixture(autouse=True)
def tools():
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name (Ray puts sockets into it) that no process uses when the test is over."""
    with tempfile.TemporaryDirectory(prefix="plait-") as name:
        try:
            yield Path(name)
        finally:
            left = wait_for_the_end_of(Path(name))
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            wait_for_the_end_of(Path(name))
        assert not left, "processes were left behind"


def using(folder: Path) -> list[int]:
    """The processes that have the folder in their environment."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in environment.read_bytes():
                found.append(int(environment.parent.name))
    return found


def wait_for_the_end_of(folder: Path) -> list[int]:
    end = time.monotonic() + 60
    while (left := using(folder)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    for first in range(20000 + os.getpid() % 8000, 32000, count):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")


def run_script(name: str, folder: Path, *arguments: Path) -> str:
    """Run a script of simulations/flower to its end; what it started is ended with it if it takes too long."""
    (folder / "ray").mkdir()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PORT": str(free_ports(3)),
        "PLAIT_CACHE": str(folder / "cache"),
        "RAY_TMPDIR": str(folder / "ray"),
    }
    with subprocess.Popen(
        ["bash", SCRIPTS / name, folder / "work", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=LONGEST_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    logs = "".join(f"\n{path.name}:\n{path.read_text()}" for path in (folder / "work").glob("*.log"))
    assert process.returncode == 0, output + logs
    return output


def simulate_in_process(out: Path, **settings: str) -> Path:
    table = {**read_config_table(SCRIPTS / "run.toml"), **settings, "out": out}
    options = [f"--{key}={value}" for key, value in table.items()]
    run_command("simulate", "--json", *options).check_returncode()
    return out


def adapters(run: Path) -> list[str]:
    """What the ledger says of the adapter after every round, and at the end."""
    return [
        event["adapter"]
        for event in read_lines(run / "ledger.jsonl")
        if event["event"] in ("round_finished", "run_finished")
    ]


def write_texts(path: Path, side: str, *, first: int) -> list[dict[str, str]]:
    records = [{"text": f"{side} has written line {n} of its own book. " * 12, "side": side} for n in range(first, 30)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return records


@pytest.fixture
def untouched_checkout() -> Iterator[None]:
    def state() -> tuple[bytes, list[Path]]:
        folders = (CHECKOUT, CHECKOUT / "server", CHECKOUT / "client", SCRIPTS)
        entries = itertools.chain.from_iterable(folder.iterdir() for folder in folders)
        caches = {".cache", ".pytest_cache", "__pycache__", ".hypothesis"}  # the first is the documentation's
        return (CHECKOUT / "pyproject.toml").read_bytes(), sorted(e for e in entries if e.name not in caches)

    before = state()
    yield
    assert state() == before


def test_superlink_and_two_supernodes_come_to_the_adapter_of_the_simulation(folder, untouched_checkout):
    records = [
        record
        for first, side in enumerate(("north", "south"))
        for record in write_texts(folder / f"{side}.jsonl", side, first=first)
    ]
    run_script("deployment.sh", folder, folder / "north.jsonl", folder / "south.jsonl")
    both = folder / "both.jsonl"
    both.write_text("".join(json.dumps(record) + "\n" for record in records))
    expected = adapters(simulate_in_process(folder / "simulated", data=str(both), partition="natural:side"))
    assert len(expected) == ROUNDS + 1
    assert adapters(folder / "work" / "run") == expected


@pytest.mark.extra("flower-simulation")
def test_flowers_ray_simulation_comes_to_the_adapter_of_plaits_own(folder, untouched_checkout):
    run_script("simulation.sh", folder)
    expected = adapters(simulate_in_process(folder / "simulated"))
    assert len(expected) == ROUNDS + 1
    assert adapters(folder / "work" / "run") == expected
