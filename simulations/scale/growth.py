"""How time and memory grow with clients, parameters and rounds: a run without its training.

    PYTHONPATH=. python simulations/scale/growth.py >simulations/scale/growth.jsonl

Coordinator, participants, codec, rule, checkpoints and ledger are plait's own; a client's training adds noise
of its own to the adapter. Clients and rounds are in float32 on a small adapter, where the codec costs
least; parameters at 1 bit. A line for each run, in a process of its own: processor time of its rounds, and the memory
that they take beyond what the process had before them. Then the exponents of growth, by least squares.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, BaseReference, Float32
from plait.config import RunConfig
from plait.federation import run_federation
from plait.machine import peak_rss_bytes
from plait.rounds.evaluation import SequenceLosses
from plait.rounds.events import Event, RoundFinished
from plait.rounds.local_channel import LocalChannel
from plait.rounds.local_model import Coverage, DataSize, Trained, TrainJob
from plait.rounds.moved_base import UNMOVED, MovedBase
from plait.rounds.participant import Participant
from plait.rounds.run_directory import RunDirectory
from plait.run import Run, resolve
from plait.settle import settle
from plait.simulation.memory import SharedBytes, SimulatedMemory, VolatileMemory
from plait.training.bases import LocatedBase, locate_config
from plait.wire.settings import Settings

CLIENTS = (10, 100, 1_000, 10_000)
ROUNDS = (10, 100, 1_000)
ADAPTERS = (
    ("tiny", 8), ("tiny", 64), ("smollm2-135m", 8), ("smollm2-135m", 64), ("llama-3.1-8b", 8), ("llama-3.1-8b", 16),
    ("llama-3.1-8b", 64),
)  # fmt: skip
"""Bases and ranks, from 75 thousand to 168 million parameters."""


@dataclass(frozen=True, eq=False)
class Model:
    """A client whose training adds noise of its own."""

    run: Run
    noise: Float32
    share: float
    base_fingerprint: bytes

    def prepare(self, spec_text: str) -> tuple[AdapterSpec, AdapterState]:
        """The run's adapter: it is derived once for all clients."""
        del spec_text
        return self.run.ranks.master.spec, self.run.ranks.master.initial

    def data_size(self, spec: AdapterSpec, settings: Settings) -> DataSize:
        """Sixteen examples."""
        del spec, settings
        return DataSize(16, 2048, 2, 256, {})

    def coverage(self, spec: AdapterSpec, settings: Settings) -> Coverage:
        """All of them."""
        del spec, settings
        return Coverage(16, 2048)

    def train(self, job: TrainJob) -> Trained:
        """The client's update."""
        after = job.start.flat + np.float32(self.share) * self.noise
        state = AdapterState(job.start.layout, after.astype(np.float32))
        return Trained(state, loss=1.0, tokens=2048, seconds=0.0, first_loss=1.0, learning_rate=0.001)

    def evaluate(
        self, spec: AdapterSpec, state: AdapterState, settings: Settings, base: MovedBase = UNMOVED
    ) -> SequenceLosses:
        """Nothing is measured."""
        del spec, state, settings, base
        return SequenceLosses((1.0, 1.0), (128, 128), digest="none")


def one(base: str, rank: int, wire: str, clients: int, rounds: int) -> None:
    """Carry out a run; print figures after each number of rounds in `ROUNDS`, and after the last."""
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            base=base, rank=rank, clients=clients, rounds=rounds, wire=wire, eval_every=rounds, eval_clients=1,
            own_share=0.0, data="none", out=f"{folder}/run",
        )  # fmt: skip
        where = locate_config(base)
        run = resolve(settle(config), LocatedBase(where, BaseReference(base, None, "00" * 32)))
        layout = run.ranks.master.spec.layout
        noise = np.float32(0.001) * np.random.default_rng(0).standard_normal(layout.size, np.float32)
        shared, directory = SharedBytes(), RunDirectory(Path(config.out))
        volatile = [VolatileMemory(shared) for _ in range(clients)]

        def participant(index: int) -> Participant:
            name = f"client-{index:05d}"
            memory = SimulatedMemory(volatile[index], directory.client_memory(name))
            return Participant(name, Model(run, noise, 1 + index % 7, bytes(32)), memory)

        before, began = peak_rss_bytes(), time.process_time()

        def hear(event: Event) -> None:
            if isinstance(event, RoundFinished) and event.round in {*ROUNDS, rounds}:
                row = {
                    "base": base, "rank": rank, "wire": wire, "parameters": layout.size, "clients": clients,
                    "rounds": event.round, "processor_s": round(time.process_time() - began, 3),
                    "memory_MB": round((peak_rss_bytes() - before) / 1e6, 1),
                }  # fmt: skip
                print(json.dumps(row), flush=True)

        run_federation(LocalChannel(participant, clients), run, on_event=hear)


def exponents(along: str, rows: Sequence[dict[str, float]]) -> dict[str, object]:
    """How fast time and memory grow, over all and between the two largest."""
    found: dict[str, object] = {"exponents": along}
    sizes = np.log([row[along] for row in rows])
    for what in ("processor_s", "memory_MB"):
        values = np.log([max(row[what], 0.1) for row in rows])
        found[what] = round(float(np.polyfit(sizes, values, 1)[0]), 3)
        found[f"{what}_at_the_end"] = round(float((values[-1] - values[-2]) / (sizes[-1] - sizes[-2])), 3)
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=5, metavar=("BASE", "RANK", "WIRE", "CLIENTS", "ROUNDS"), help="this run alone")
    asked = parser.parse_args()
    if asked.one:
        base, rank, wire, clients, rounds = asked.one
        one(base, int(rank), wire, int(clients), int(rounds))
        return
    cells = {
        "clients": [("tiny", 1, "fp32", clients, 1) for clients in CLIENTS],
        "rounds": [("tiny", 1, "fp32", 2, max(ROUNDS))],
        "parameters": [(base, rank, "1", 2, 2) for base, rank in ADAPTERS],
    }
    for along, runs in cells.items():
        rows = list(itertools.chain.from_iterable(map(_rows, runs)))
        print(json.dumps(exponents(along, rows)), flush=True)


def _rows(cell: Sequence[object]) -> list[dict[str, float]]:
    command = [sys.executable, __file__, "--one", *map(str, cell)]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    print(*lines, sep="\n", flush=True)
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
