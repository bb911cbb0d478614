"""Flower's engine started and watched by the scripts here: commands, the operator's connection, what a ledger says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
COMMANDS = Path(sys.executable).parent
LONGEST_S = 1800
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "PATH": f"{COMMANDS}{os.pathsep}{os.environ['PATH']}",
}
"""The environment of quiet.sh, and where Flower finds its own commands."""

Event = dict[str, Any]


def start(name: str, log: Path, environment: Mapping[str, str], *options: str) -> subprocess.Popen[bytes]:
    """A process of Flower's."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [COMMANDS / name, *options],
            env=environment,
            cwd=log.parent,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def free_port() -> int:
    """A free port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def write_connection(home: Path, port: int) -> None:
    """Tell `flwr` where the SuperLink is."""
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "plait"\n\n[superlink.plait]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )


def answers(port: int) -> bool:
    """Whether a SuperLink listens."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def run(folder: Path, environment: Mapping[str, str], settings: Mapping[str, object], *options: str) -> None:
    """Start plait's run, which `folder / "run"` will be."""
    table = {**settings, "out": str(folder / "run")}
    (folder / "run.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))
    command = [COMMANDS / "flwr", "run", CHECKOUT, "--run-config", folder / "run.toml", *options]
    subprocess.run(command, check=True, env=environment, cwd=folder, stdout=sys.stderr)


def status(folder: Path, environment: Mapping[str, str]) -> list[str]:
    """What Flower says of its runs, newest first."""
    command = [COMMANDS / "flwr", "list", "--format", "json"]
    told = subprocess.run(command, env=environment, cwd=folder, capture_output=True, check=False).stdout
    with suppress(ValueError, KeyError):
        return [str(each["status"]) for each in json.loads(told)["runs"]]
    return []


def wait_until(happened: Callable[[], bool], *, every_s: float = 0.2) -> None:
    """Wait for it.

    Raises:
        TimeoutError: it never does.
    """
    end = time.monotonic() + LONGEST_S
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing of it in {LONGEST_S} s")
        time.sleep(every_s)


def wait_for_the_end(folder: Path, environment: Mapping[str, str]) -> str:
    """Wait until the run is over, by its ledger or by what Flower says of it; returns Flower's word or "completed"."""
    told: list[str] = []

    def over() -> bool:
        for _ in range(100):
            if any(event["event"] == "run_finished" for event in ledger(folder)):
                told.append("completed")
                return True
            time.sleep(0.2)
        told[:] = status(folder, environment)[:1]
        return bool(told) and told[0].startswith("finished")

    wait_until(over)
    return told[0]


def ledger(folder: Path) -> list[Event]:
    """The events of the run so far."""
    path = folder / "run" / "ledger.jsonl"
    return lines(path) if path.exists() else []


def lines(path: Path) -> list[Event]:
    """The whole lines of a file that is being written."""
    found: list[Event] = []
    for line in path.read_text().splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def count(folder: Path, kind: str, number: int) -> int:
    """How many events of a kind a round has."""
    return sum(event["event"] == kind and event.get("round") == number for event in ledger(folder))


def adapters(run: Path) -> list[str]:
    """The adapter after every round, and at the end."""
    kinds = ("round_finished", "run_finished")
    return [event["adapter"][:16] for event in lines(run / "ledger.jsonl") if event["event"] in kinds]


def rounds(folder: Path) -> list[Event]:
    """How the rounds went."""
    told: list[Event] = []
    for finished in ledger(folder):
        if finished["event"] == "round_finished":
            number = finished["round"]
            told.append(
                {
                    "round": number,
                    "folded": finished["received"],
                    "failed": count(folder, "update_refused", number),
                    "missed": count(folder, "round_missed", number),
                    "wall_s": finished["wall_s"],
                }
            )
    return told


def simulate(folder: Path, settings: Mapping[str, object]) -> list[str]:
    """The adapters of the same run in one process."""
    options = [f"--{key}={value}" for key, value in settings.items()]
    command = [COMMANDS / "plait", "simulate", "--json", *options, f"--out={folder / 'simulated'}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return adapters(folder / "simulated")
