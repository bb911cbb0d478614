"""``plait bench simulate``: rounds of plait's simulation compared with Flower's, written as its users would.

Both train the same adapter on the same base, on the same text of the same clients, for as many steps, and send float32;
both adapters are evaluated by the same loss on text that neither saw. Every run is a separate command, measured with
all its processes. The peer is the app in ``simulations/simulate/stock``.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import plait
from plait.adapters.peft_reading import load_peft_directory
from plait.data import Dataset, Record, as_dataset
from plait.errors import DataError
from plait.ledger.events import RoundFinished
from plait.ledger.ledger import read_events
from plait.rounds.channel import Channel
from plait.simulation.partition import partition
from plait.simulation.scheme import default_scheme
from plait.training.bases import LocatedBase
from plait.training.device import Compute
from plait.training.evaluation import evaluate_adapter
from simulations.bench.process_tree import Measured, measured
from simulations.bench.row import Row
from simulations.bench.transport import ChannelRounds

_PEER = "Flower's Ray simulation"
_HELD_OUT = 10  # a tenth of each client's text
_JUDGED_SEQUENCES = 64


@dataclass(frozen=True)
class Workload:
    """What is trained; all linear layers have an adapter.

    Attributes:
        clients: how many, all in every round.
        characters: the most text that a client has.
        timeout_s: of one simulation; None for no limit.
    """

    base: LocatedBase
    compute: Compute
    clients: int = 8
    rounds: int = 3
    local_steps: int = 4
    batch_size: int = 4
    seq_len: int = 128
    rank: int = 8
    seed: int = 0
    characters: int = 60_000
    learning_rate: float = 1e-3
    timeout_s: float | None = None

    def __str__(self) -> str:
        """The description; the text does not change."""
        return (
            f"{self.base.directory.name}, {self.clients} clients, {self.local_steps} steps of "
            f"{self.batch_size} x {self.seq_len} tokens, rank {self.rank}, {self.compute.dtype_name}"
        )


@dataclass(frozen=True)
class Run:
    """A finished simulation.

    Attributes:
        took: resources of its command.
        round_s: seconds of each round.
        loss: of its adapter on text that it never saw.
        base_loss: of the base without it.
    """

    took: Measured
    round_s: Sequence[float]
    loss: float
    base_loss: float


def rows(
    work: Workload, folder: Path, *, repetitions: int, progress: Callable[[str], None] = lambda _: None
) -> Iterator[Row]:
    """Run both simulations in turn, `repetitions` times, and compare.

    Raises:
        MachineError: a simulation failed.
    """
    held_out = deal_out(work, folder)
    ours: list[Run] = []
    theirs: list[Run] = []
    for repetition in range(repetitions):
        for name, run, found in ((f"plait {plait.__version__}", run_plait, ours), (_PEER, run_stock, theirs)):
            progress(f"{name}, {repetition + 1} of {repetitions}")
            found.append(run(work, folder, f"{run.__name__}-{repetition}", held_out))

    def row(what: str, unit: str, of: Callable[[Run], float], *, more_is_better: bool = False) -> Row:
        value, peer = (statistics.median(map(of, runs)) for runs in (ours, theirs))
        return Row(f"{work}: {what}", value, unit, {_PEER: peer}, more_is_better=more_is_better)

    total = work.clients * work.rounds
    yield row(
        "client-rounds a second, between rounds", "1/s", lambda run: work.clients / statistics.median(run.round_s[1:]),
        more_is_better=True,
    )  # fmt: skip
    yield row(
        "client-rounds a second, the whole command", "1/s", lambda run: total / run.took.wall_s, more_is_better=True
    )
    yield row("processor time of a client-round, the whole command", "s", lambda run: run.took.processor_s / total)
    yield row("most memory, all processes", "MB", lambda run: run.took.peak_bytes / 1e6)
    yield row(f"loss after {work.rounds} rounds on text not seen", "nats", lambda run: run.loss)
    yield Row(f"{work}: loss of the base on it", ours[0].base_loss, "nats", {_PEER: theirs[0].base_loss})


def round_row(channel: Channel, nodes: int, *, rounds: int) -> Row:
    """The median cost of a round itself, with clients that echo what they receive."""
    empty, seconds = ChannelRounds(channel, nodes), list[float]()
    for number in range(rounds + 1):
        started = time.perf_counter()
        empty.round(b"nothing")
        if number:
            seconds.append(time.perf_counter() - started)
    return Row(f"no-op round of {nodes} clients, in process: median", statistics.median(seconds), "s")


def deal_out(work: Workload, folder: Path) -> Dataset:
    """Write the clients' text to ``train.jsonl``; return the text that neither simulation sees.

    Raises:
        DataError: a client has too little text.
    """
    dataset = as_dataset("stdlib")
    dealt = partition(dataset, default_scheme(dataset), clients=work.clients, seed=work.seed)
    kept: list[str] = []
    seen: list[Record] = []
    for share in dealt.shares:
        text = "\n".join(record.text for record in share.records)[: work.characters]
        cut = len(text) - len(text) // _HELD_OUT
        if cut < 8 * work.seq_len:
            raise DataError(f"client {share.name!r} has {len(text)} characters, expected {8 * work.seq_len} at least")
        kept.append(json.dumps({"text": text[:cut], "client": share.name}))
        seen.append(Record(text=text[cut:]))
    (folder / "train.jsonl").write_text("".join(line + "\n" for line in kept))
    return Dataset("held-out text", dataset.kind, tuple(seen))


def run_plait(work: Workload, folder: Path, name: str, held_out: Dataset) -> Run:
    """Run plait's simulation, all clients of a round in one batch.

    The stock app weighs clients by their examples and begins every round with a fresh optimizer, so this one does too.
    It evaluates before the first round and after the last, which cannot be left out.
    """
    out = folder / name
    options = {
        "data": folder / "train.jsonl", "partition": "natural:client", "base": work.base.directory,
        "clients": work.clients, "rounds": work.rounds, "local-steps": work.local_steps,
        "batch-size": work.batch_size, "seq-len": work.seq_len, "rank": work.rank, "alpha": 2 * work.rank,
        "learning-rate": work.learning_rate, "bits": "fp32", "seed": work.seed, "device": work.compute.device,
        "dtype": work.compute.dtype_name, "eval-every": work.rounds, "eval-clients": 1, "max-held-out-sequences": 1,
        "held-out-fraction": 0.01, "weighting": "examples", "server-optimizer": "none", "personalize": 0, "out": out,
    }  # fmt: skip
    given = itertools.chain.from_iterable((f"--{key}", str(value)) for key, value in options.items())
    took = measured(
        [sys.executable, "-m", "plait.cli.main", "simulate", *given, "--json"], cwd=folder, timeout_s=work.timeout_s
    )
    events = read_events(out / "ledger.jsonl")
    round_s = [event.wall_s or 0.0 for event in events if isinstance(event, RoundFinished)]
    return _judged(work, out / "adapter", took, round_s, held_out)


def run_stock(work: Workload, folder: Path, name: str, held_out: Dataset) -> Run:
    """Run Flower's simulation of the stock app."""
    out = folder / name
    settings = folder / f"{name}.toml"
    settings.write_text(
        f'model-name = "{work.base.directory}"\ndata = "{folder / "train.jsonl"}"\nout = "{out}"\n'
        f'dtype = "{work.compute.dtype_name}"\nnum-server-rounds = {work.rounds}\nlocal-steps = {work.local_steps}\n'
        f"batch-size = {work.batch_size}\nseq-len = {work.seq_len}\nlearning-rate = {work.learning_rate}\n"
        f"rank = {work.rank}\nalpha = {2 * work.rank}\nseed = {work.seed}\n"
    )
    # Flower starts its parts by name.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    command = [str(stock_app() / "run.sh"), str(out), str(work.clients), str(settings)]
    took = measured(command, cwd=folder, environment={"PATH": path}, timeout_s=work.timeout_s)
    times = cast("list[float]", json.loads((out / "times.json").read_text()))
    round_s = [later - earlier for earlier, later in itertools.pairwise(times)]
    return _judged(work, out / "adapter", took, round_s, held_out)


def stock_app() -> Path:
    """The folder of the peer's app.

    Raises:
        MachineError: the installation lacks it.
    """
    return Path(__file__).parents[1] / "simulate" / "stock"


def _judged(work: Workload, adapter: Path, took: Measured, round_s: Sequence[float], held_out: Dataset) -> Run:
    base, adapted = evaluate_adapter(
        work.base,
        load_peft_directory(adapter),
        held_out,
        compute=work.compute,
        seq_len=work.seq_len,
        batch_size=work.batch_size,
        max_sequences=_JUDGED_SEQUENCES,
    )
    return Run(took, round_s, adapted.loss, base.loss)
