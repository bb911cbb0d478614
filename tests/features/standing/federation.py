"""A federation that stays, of real processes over TLS on loopback: a server that may be killed, and four clients, an
operator and an observer that nobody touches."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import plait
from plait.address import Address
from plait.config import config_from_table
from plait.features.standing.calls import AwayError, OperatorCalls
from plait.features.standing.run_queue import Entry, State, read_queue
from plait.rounds.ledger import Line, read_lines
from plait.training.bases import locate_base
from plait.trust.kit import StaffKit
from plait.trust.provision import provision
from tests.commands import Command
from tests.deployment import conftest as deployed

WEIGHTS = "adapter/adapter_model.safetensors"
COMMON: dict[str, object] = {
    "base": "tiny", "clients": 2, "local_steps": 2, "batch_size": 2, "seq_len": 32, "rank": 2,
    "learning_rate": 1e-2, "dtype": "float32", "threads": 1, "seed": 5,
}  # fmt: skip
WRITERS, JUDGES = ("alice", "bob"), ("carol", "dave")
OTHER_BASE = "other"


@dataclass(frozen=True)
class Asked:
    """A run to submit: its settings, its clients and the label that they state."""

    settings: dict[str, object]
    clients: tuple[str, ...]
    label: str


def three_runs(folder: Path, *, rounds: int = 2) -> dict[str, Asked]:
    """Another rule, another base, one classification."""
    common = {**COMMON, "rounds": rounds}
    return {
        "ruled": Asked({**common, "rule": "fedex", "wire": "fp32"}, WRITERS, "text"),
        "rebased": Asked({**common, "base": str(folder / OTHER_BASE), "method": "dora"}, WRITERS, "text"),
        "judging": Asked({**common, "labels": "calm,loud"}, JUDGES, "judge"),
    }


def rows_of(name: str) -> list[dict[str, str]]:
    """The data of a client."""
    generator = random.Random(name)
    rows: list[dict[str, str]] = []
    for number in range(24):
        text = " ".join(generator.choices(deployed._WORDS, k=40))
        judged = {"label": ("calm", "loud")[number % 2]} if name in JUDGES else {}
        rows.append({"text": f"{text} {name}", "author": name, **judged})
    return rows


def make_base(directory: Path) -> None:
    """A base that is not the built-in one: half of its layers, with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tiny = locate_base("tiny").directory
    shutil.copytree(tiny, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    config = AutoConfig.from_pretrained(tiny, trust_remote_code=False)
    config.num_hidden_layers = 2
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        AutoModelForCausalLM.from_config(config, trust_remote_code=False).save_pretrained(directory)


@dataclass
class Federation:
    """One server that stays, four clients, an operator and an observer."""

    folder: Path
    port: int = field(default_factory=deployed.unused_port)
    options: Sequence[object] = ()
    place: str = "standing"
    server: Command | None = None
    clients: dict[str, Command] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> Federation:
        """Kits, data, policy and the second base."""
        provision(
            folder / "kits", (*WRITERS, *JUDGES), ("localhost",), operators=("olga", "otto"), observers=("ivo",),
            now=datetime.now(UTC),
        )  # fmt: skip
        (folder / "policy.toml").write_text("min-examples = 1\nmin-tokens = 1\n")
        make_base(folder / OTHER_BASE)
        for name in (*WRITERS, *JUDGES):
            rows = "".join(f"{json.dumps(row)}\n" for row in rows_of(name))
            (folder / f"{name}.jsonl").write_text(rows)
        return cls(folder)

    @property
    def directory(self) -> Path:
        return self.folder / self.place

    def calls(self, who: str = "operators/olga") -> OperatorCalls:
        return OperatorCalls(Address("localhost", self.port), StaffKit.load(self.folder / "kits" / who))

    def start(self, *more: object) -> None:
        """Start the server, anew after a kill."""
        self.server = self._process(
            "server", "server", "--stay", "--kit", self.folder / "kits" / "server",
            "--listen", f"127.0.0.1:{self.port}", "--out", self.directory, "--give-up-s", "0.5", *self.options, *more,
        )  # fmt: skip

    def join(self, name: str) -> None:
        """Start a client."""
        self.clients[name] = self._process(
            name, "client", "--json", "--kit", self.folder / "kits" / "clients" / name,
            "--server", f"localhost:{self.port}", "--data", self.folder / f"{name}.jsonl",
            "--state", self.folder / "state" / name, "--policy", self.folder / "policy.toml", "--yes",
            "--dtype", "float32", "--threads", "1", "--labels", "judge" if name in JUDGES else "text",
            "--base", f"{OTHER_BASE}={self.folder / OTHER_BASE}",
        )  # fmt: skip

    def _process(self, name: str, *arguments: object) -> Command:
        return deployed.plait(*arguments, folder=self.folder, output=self.folder / f"{name}.out")

    def begin(self) -> None:
        """Start everybody."""
        self.start()
        for name in (*WRITERS, *JUDGES):
            self.join(name)
        self.until(self.everybody_is_here)

    def end(self) -> None:
        """End everybody."""
        for process in (*self.clients.values(), self.server):
            if process is not None:
                process.send_signal(signal.SIGTERM)
        for process in (*self.clients.values(), self.server):
            if process is not None:
                process.wait(timeout=60)

    def kill(self) -> None:
        """Kill the server (SIGKILL)."""
        assert self.server is not None
        self.server.kill()
        self.server.wait()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait, as long as nobody ends."""

        def is_so() -> object:
            for name, process in {"server": self.server, **self.clients}.items():
                assert process is None or process.poll() is None, f"{name} ended: {self.printed()}"
            return condition()

        deployed.until(is_so, what=self.printed)

    def printed(self) -> str:
        return "\n".join(f"--- {file.stem}\n{file.read_text()}" for file in sorted(self.folder.glob("*.out")))

    def everybody_is_here(self) -> bool:
        with suppress(AwayError):
            return {each["name"] for each in self.calls("observers/ivo").runs()["clients"]} >= {*WRITERS, *JUDGES}
        return False

    def submit(self, name: str, asked: Asked) -> None:
        table = config_from_table(asked.settings).to_table()
        assert self.calls().submit(table, name=name, cohort_labels=[asked.label]) == name

    def entry(self, run: str) -> Entry:
        return next(entry for entry in read_queue(self.directory) if entry.run == run)

    def lines(self, run: str) -> list[Line]:
        """The ledger of a run; nothing where it has not begun."""
        ledger = self.directory / "runs" / run / "ledger.jsonl"
        return read_lines(ledger) if ledger.exists() else []

    def events(self, run: str) -> list[str]:
        return [str(line["event"]) for line in self.lines(run)]

    def updates(self, run: str) -> int:
        return self.events(run).count("update_received")

    def over(self, run: str) -> Entry:
        self.until(lambda: self.entry(run).is_over)
        return self.entry(run)

    def weights(self, run: str) -> bytes:
        assert self.entry(run).state is State.FINISHED, self.entry(run)
        return (self.directory / "runs" / run / WEIGHTS).read_bytes()

    def caught_in_mid_round(self, name: str, asked: Asked) -> str:
        """Submit a run of both writers, and stop alice's process once only bob has answered; gives the run's name."""
        number = 0
        while True:
            run = f"{name}-{number}"
            self.submit(run, asked)
            self.until(lambda run=run: "round_started" in self.events(run))
            self.clients["alice"].send_signal(signal.SIGSTOP)
            self.until(lambda run=run: self.updates(run) % 2 or self.entry(run).is_over)
            if not self.entry(run).is_over:
                return run
            self.clients["alice"].send_signal(signal.SIGCONT)  # both were faster than this loop
            number += 1

    def trainings(self) -> Counter[tuple[str, int, str]]:
        """How often each client began to train for each round of each of its runs, as it says itself."""
        found: Counter[tuple[str, int, str]] = Counter()
        for client in self.clients:
            runs_before = 0
            for line in (self.folder / f"{client}.out").read_text().splitlines():
                told = json.loads(line) if line.startswith("{") else {}
                runs_before += told.get("event") == "finished"
                group, _, kind = str(told.get("task", "")).rpartition(".")[0].rpartition(".")
                if told.get("event") == "task" and kind == "train":
                    found[client, runs_before, group] += 1
        return found


def simulated(asked: Asked, out: Path) -> bytes:
    """The adapter of the same run in simulation, which nobody disturbs."""
    rows = [row for name in asked.clients for row in rows_of(name)]
    plait.simulate(rows, partition="natural:author", out=out, quiet=True, **asked.settings)
    return (out / WEIGHTS).read_bytes()
