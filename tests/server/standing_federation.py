"""A standing federation, of real processes over TLS on loopback: a server that may be killed, clients, an operator."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import plait
from plait.config import config_from_table
from plait.errors import MachineError
from plait.ledger.ledger import Line, read_lines
from plait.system.address import Address
from plait.training.bases import locate_base
from plait.transport.status import fetch_status
from plait.trust.kit import StaffKit
from server.standing import Entry, State, read_queue
from server.standing_verbs import OperatorCalls
from tests.deployment.conftest import Deployment, founded

WEIGHTS = "adapter/adapter_model.safetensors"
COMMON: dict[str, object] = {
    "base": "tiny", "clients": 2, "local_steps": 2, "batch_size": 2, "seq_len": 32, "rank": 2,
    "learning_rate": 1e-2, "dtype": "float32", "threads": 1, "seed": 5,
}  # fmt: skip
WRITERS = ("alice", "bob")
OTHER_BASE = "other"


def three_runs(folder: Path, *, rounds: int = 2) -> dict[str, dict[str, object]]:
    """Another rule, another base, another rank: their settings by name."""
    common = {**COMMON, "rounds": rounds}
    return {
        "ruled": {**common, "rule": "fedsvd", "bits": "fp32"},
        "rebased": {**common, "base": str(folder / OTHER_BASE), "method": "dora"},
        "ranked": {**common, "rank": 4},
    }


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
class Standing(Deployment):
    """A deployment whose server stays, and what an operator sees of it.

    Attributes:
        place: where its server keeps runs.
    """

    place: str = "runs"

    @classmethod
    def of_two(cls, folder: Path) -> Standing:
        """Two clients, and the second base."""
        kits = founded(folder / "kits", dict.fromkeys(WRITERS, 24), operators=("olga",))
        (kits / "policy.toml").write_text("min-examples = 4\nmin-tokens = 1\n")
        make_base(folder / OTHER_BASE)
        return cls(folder, kits)

    def rows(self, name: str) -> list[dict[str, str]]:
        """The data of a client."""
        return [json.loads(line) for line in (self.federation / f"{name}.jsonl").read_text().splitlines()]

    @property
    def directory(self) -> Path:
        return self.folder / "server" / self.place

    def calls(self) -> OperatorCalls:
        return OperatorCalls(Address("localhost", self.port), StaffKit.load(self.federation / "operators/olga"))

    def open(self) -> None:
        """Start the server."""
        self.stay("--give-up-s", "0.5", place=self.place)

    def begin(self) -> None:
        """Start everybody."""
        self.open()
        for name in WRITERS:
            self.join(name, "--json", "--yes", "--base", f"{OTHER_BASE}={self.folder / OTHER_BASE}")
        self.until(self.everybody_is_here)

    def kill(self) -> None:
        """Kill the server."""
        self.signal("server", signal.SIGKILL)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait, as long as no process ends."""

        def is_so() -> object:
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended: {self.everything_printed()}"
            return condition()

        super().until(is_so)

    def everybody_is_here(self) -> bool:
        with suppress(MachineError):
            nodes = fetch_status(f"localhost:{self.port}", kit=self.calls().kit)["nodes"]
            return {each["name"] for each in nodes} >= {*WRITERS}  # type: ignore[attr-defined]
        return False

    def submit(self, name: str, settings: dict[str, object]) -> None:
        assert self.calls().submit(config_from_table(settings).to_table(), name=name) == name

    def entry(self, run: str) -> Entry:
        return next(entry for entry in read_queue(self.directory) if entry.run == run)

    def lines(self, run: str) -> list[Line]:
        """The ledger of a run; nothing where it has not begun."""
        ledger = self.directory / "runs" / run / "ledger.jsonl"
        return read_lines(ledger) if ledger.exists() else []

    def kinds(self, run: str) -> list[str]:
        return [str(line["event"]) for line in self.lines(run)]

    def updates(self, run: str) -> int:
        return self.kinds(run).count("update_received")

    def over(self, run: str) -> Entry:
        self.until(lambda: self.entry(run).is_over)
        return self.entry(run)

    def weights(self, run: str) -> bytes:
        assert self.entry(run).state is State.FINISHED, self.entry(run)
        return (self.directory / "runs" / run / WEIGHTS).read_bytes()

    def caught_in_mid_round(self, name: str, settings: dict[str, object]) -> str:
        """Submit a run of both writers, and stop alice's process once only bob has answered; gives the run's name."""
        number = 0
        while True:
            run = f"{name}-{number}"
            self.submit(run, settings)
            self.until(lambda run=run: "round_started" in self.kinds(run))
            self.signal("alice", signal.SIGSTOP)
            self.until(lambda run=run: self.updates(run) % 2 or self.entry(run).is_over)
            if not self.entry(run).is_over:
                return run
            self.signal("alice", signal.SIGCONT)  # both were faster than this loop
            number += 1

    def trainings(self) -> Counter[tuple[str, int, str]]:
        """How often each client began to train for each round of each of its runs, as it says itself."""
        found: Counter[tuple[str, int, str]] = Counter()
        for client in WRITERS:
            runs_before = 0
            for line in self.printed(client).splitlines():
                told = json.loads(line) if line.startswith("{") else {}
                runs_before += told.get("event") == "finished"
                group, _, kind = str(told.get("task", "")).rpartition(".")[0].rpartition(".")
                if told.get("event") == "task" and kind == "train":
                    found[client, runs_before, group] += 1
        return found

    def simulated(self, settings: dict[str, object], out: Path) -> bytes:
        """The adapter of the same run in an undisturbed simulation."""
        rows = [{**row, "author": name} for name in WRITERS for row in self.rows(name)]
        plait.simulate(rows, partition="natural:author", out=out, quiet=True, **settings)  # type: ignore[arg-type]
        return (out / WEIGHTS).read_bytes()
