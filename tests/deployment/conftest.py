"""Real processes over TLS on loopback: one `plait server`, three `plait client`, each with its own kit and data."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plait.ledger.ledger import Line, read_lines
from plait.trust.provision import provision
from tests import waiting
from tests.commands import Command, resuming, said_by
from tests.killing import different_stories
from tests.once import once

CLIENTS = ("alice", "bob", "carol")
CANARY = "zxcanary"
"""Stands in every record of every client's data, and may stand nowhere else."""

# One thread and float32, so that a process computes the same as any other.
TRAINING = (
    "--base", "tiny", "--local-steps", "8", "--batch-size", "2", "--seq-len", "32", "--learning-rate", "1e-2",
    "--dtype", "float32", "--threads", "1", "--seed", "5",
)  # fmt: skip
_WORDS = (
    "the", "server", "keeps", "an", "adapter", "that", "every", "client", "trains", "on", "what", "it", "has", "and",
    "sends", "back", "a", "small", "delta",
)  # fmt: skip

_PROGRAM = """
import sys
from plait.cli.main import main
from tests.deployment.doomed import doom
from tests.deployment.simulated_secret import use_simulated_secret

use_simulated_secret(seed=5)
if doomed := sys.argv.pop(1):
    doom(doomed)
main()
"""


def plait(*arguments: object, folder: Path, output: Path, doomed: str = "") -> Command:
    """Start `plait` in a folder; all that it prints goes into one file. A doomed one kills itself (see `doomed`).

    A client's secret of a run is that of its simulation, so that both end with the same bits. Each folder is a machine
    of its own: its user's home has nothing of the others.
    """
    env = {**os.environ, "XDG_STATE_HOME": str(folder / "home")}
    with output.open("ab") as file:
        return Command(doomed, *arguments, program=_PROGRAM, cwd=folder, env=env, stdout=file, stderr=subprocess.STDOUT)


@dataclass
class Deployment:
    """A server and its clients, each in a folder that stands for a machine."""

    folder: Path
    federation: Path
    port: int = field(default_factory=waiting.unused_port)
    run: Path = field(init=False)
    processes: dict[str, Command] = field(default_factory=dict)
    _server: tuple[object, ...] = ()
    _clients: dict[str, tuple[object, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run = self.folder / "server" / "run"

    def serve(self, *options: object, clients: int = len(CLIENTS), **more: str) -> None:
        (self.folder / "server").mkdir()
        self._server = (
            "server", "--kit", self.federation / "server", "--listen", f"127.0.0.1:{self.port}",
            "--min-clients", clients, "--out", "run", *TRAINING, *options,
        )  # fmt: skip
        self.start("server", **more)

    def join(self, name: str, *options: object, port: int | None = None, data: Path | None = None, **more: str) -> None:
        (self.folder / name).mkdir(exist_ok=True)
        # A kit notes how long the journal of its client's data is, so each deployment has kits of its own.
        kit = self.folder / name / name
        if not kit.exists():
            shutil.copytree(self.federation / "clients" / name, kit)
        self._clients[name] = (
            "client", "--kit", kit, "--server", f"localhost:{port or self.port}",
            "--data", data or self.federation / f"{name}.jsonl", "--state", "state",
            "--threads", "1", "--dtype", "float32", "--policy", self.federation / "policy.toml",
            *options,
        )  # fmt: skip
        self.start(name, **more)

    def join_all(self, *options: object) -> None:
        for name in CLIENTS:
            self.join(name, *options)

    def status(self, *options: object) -> str:
        return said_by("status", "--server", f"localhost:{self.port}", "--kit", self.federation / "server", *options)

    def stay(self, *options: object, place: str = "runs") -> None:
        """Start a server that takes runs from a queue."""
        (self.folder / "server").mkdir(exist_ok=True)
        self._server = (
            "server", "--stay", "--kit", self.federation / "server", "--listen", f"127.0.0.1:{self.port}",
            "--out", place, *options,
        )  # fmt: skip
        self.start("server")

    def start(self, name: str, **more: str) -> None:
        """Start a process anew, with the same command."""
        command = self._server if name == "server" else self._clients[name]
        self.processes[name] = plait(*command, folder=self.folder / name, output=self.output(name), **more)

    def resume(self, **more: str) -> None:
        """Start the server anew, by the name of the run and what lies outside it."""
        place = self.folder / "server"
        words = resuming(place / "run")
        self.processes["server"] = plait(*words, folder=place, output=self.output("server"), **more)

    def until_killed(self, name: str) -> None:
        """Wait for a process that kills itself."""
        self.until(lambda: self.processes[name].poll() is not None)
        assert self.processes[name].returncode == -signal.SIGKILL, self.everything_printed()

    def signal(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)
        if number is signal.SIGKILL:
            self.processes[name].wait()

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def output(self, name: str) -> Path:
        return self.folder / name / "output"

    def printed(self, name: str) -> str:
        return self.output(name).read_text()

    def events(self, kind: str, **fields: object) -> list[Line]:
        if not (self.run / "ledger.jsonl").exists():
            return []
        return [
            event
            for event in read_lines(self.run / "ledger.jsonl")
            if event["event"] == kind and all(event.get(key) == value for key, value in fields.items())
        ]

    def different_stories(self, reference: Path, *, again: Collection[str] = ()) -> list[str]:
        """What the ledger tells otherwise than that of the simulation, which signs nothing."""
        own = {"signature", "signed", "certified", "envelope_bytes", "uplink_bytes", "peak_rss_bytes"}

        def told(run: Path) -> Iterator[Line]:
            for event in read_lines(run / "ledger.jsonl"):
                if event["event"] != "run_started":
                    yield {name: value for name, value in event.items() if name not in own}

        return different_stories(told(self.run), told(reference), again=again)

    def until(self, condition: Callable[[], object]) -> None:
        waiting.until(condition, self.everything_printed, patience_s=1800)

    def stop_in_training(self, name: str, round_number: int) -> None:
        """Stop a client's process while it trains."""
        begun = f"round {round_number}: training\n"
        self.until(lambda: begun in self.printed(name))
        self.signal(name, signal.SIGSTOP)
        assert f"round {round_number}: training: sent" not in self.printed(name), "it was too fast to be stopped"

    def finish(self, names: Sequence[str] = ("server", *CLIENTS)) -> None:
        """Wait until everybody has ended in good order."""
        self.until(lambda: all(self.processes[name].poll() is not None for name in names))
        codes = {name: self.processes[name].returncode for name in names}
        assert set(codes.values()) == {0}, f"{codes}: {self.everything_printed()}"

    def everything_printed(self) -> str:
        return "\n".join(f"--- {name}\n{self.printed(name)}" for name in self.processes)

    @property
    def adapter(self) -> bytes:
        return (self.run / "adapter" / "adapter_model.safetensors").read_bytes()


def founded(folder: Path, records: Mapping[str, int], *, operators: Sequence[str] = ()) -> Path:
    """Kits of clients with so many records, and of staff; each client's data, and all of it for the simulation."""
    hosts, now = ("localhost", "127.0.0.1"), datetime.now(UTC)
    provision(folder, list(records), hosts, operators=operators, now=now)
    # The runs are smaller than what the default policy takes.
    (folder / "policy.toml").write_text("min-tokens = 512\n")
    generator = random.Random(0)
    everything: list[str] = []
    for name, count in records.items():
        texts = [" ".join(generator.choices([*_WORDS, name, CANARY], k=40)) + f" {CANARY}" for _ in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        everything += [json.dumps({"text": text, "client": name}) for text in texts]
    (folder / "all.jsonl").write_text("\n".join(everything) + "\n")
    return folder


def simulation(federation: Path, folder: Path, clients: int, *options: object) -> Path:
    """The run directory of the simulation of a federation's clients and data."""
    process = plait(
        "simulate", "--data", federation / "all.jsonl", "--partition", "natural:client", "--clients", clients,
        "--out", "run", *TRAINING, *options, folder=folder, output=folder / "output",
    )  # fmt: skip
    assert process.wait() == 0, (folder / "output").read_text()
    return folder / "run"


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return founded(tmp_path_factory.mktemp("federation"), dict(zip(CLIENTS, (40, 30, 24), strict=True)))


@pytest.fixture(scope="session")
def simulated(federation: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs the simulation of the same clients and data, once for each set of options; gives its run directory."""

    def run(*options: str) -> Path:
        name = f"simulated-{hashlib.sha256(repr(options).encode()).hexdigest()[:16]}"
        make = lambda folder: simulation(federation, folder, len(CLIENTS), *options)  # noqa: E731
        return once(tmp_path_factory, name, make) / "run"

    return run


@pytest.fixture
def deployment(federation: Path, tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path, federation)
    yield deployment
    deployment.end()


def sees_canary(folder: Path) -> list[Path]:
    """The files below a folder in which training text stands."""
    return [path for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
