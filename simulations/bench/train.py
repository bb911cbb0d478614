"""``plait bench train``: a client's training tokens per second, and its memory, compared with alternatives.

The limit is the rate at which this machine multiplies matrices of the base's type: a frozen weight costs two operations
per token forward and two backward. Every way has a separate process, so that none is affected by another's settings.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait.report.table import Table
from plait.system import machine
from simulations.bench.row import Row

if TYPE_CHECKING:
    from simulations.bench.train_ways import Way, Workload

OURS = "plait"
_LIMIT = "limit"
_IN_MEMORY = ("plait", "inference", "full fine-tuning, float32", "full fine-tuning, bfloat16")
_MEMORY_STEPS = 2


@dataclass(frozen=True)
class Clock:
    """How time is measured.

    Attributes:
        name: for people.
        now: seconds.
    """

    name: str
    now: Callable[[], float]


WALL = Clock("wall time", time.perf_counter)
# Other processes on the machine matter little here, if waiting threads sleep (OMP_WAIT_POLICY=PASSIVE).
MAIN_THREAD = Clock("processor time of the main thread", time.thread_time)


@dataclass(frozen=True)
class Speeds:
    """The measurements of all ways.

    Attributes:
        what: was trained, in words.
        rates: tokens per second by way, in the order they were measured; `plait` and `limit` are among them.
        losses: of each way's last step.
        clock: which clock.
    """

    what: str
    rates: Mapping[str, Sequence[float]]
    losses: Mapping[str, float]
    clock: str

    def median(self, way: str) -> float:
        """The median rate of a way."""
        return statistics.median(self.rates[way])

    def deviation(self, way: str) -> float:
        """The largest relative deviation of its rates from the median."""
        return max(abs(rate / self.median(way) - 1) for rate in self.rates[way])

    @property
    def peers(self) -> list[str]:
        """All but plait and the limit."""
        return [way for way in self.rates if way not in (OURS, _LIMIT)]

    def rows(self) -> Iterator[Row]:
        """All rows."""
        rates = {way: self.median(way) for way in self.peers}
        yield Row(
            f"{self.what}: rate", self.median(OURS), "tokens/s", rates, limit=self.median(_LIMIT), more_is_better=True
        )
        spread = {way: self.deviation(way) for way in self.rates if way != OURS}
        yield Row(f"{self.what}: largest deviation from the median rate", self.deviation(OURS), "1", spread)
        losses = {way: self.losses[way] for way in self.peers}
        yield Row(f"{self.what}: loss of the last step", self.losses[OURS], "nats", losses)

    def table(self) -> Table:
        """A table for people."""
        ours = self.median(OURS)
        rows = tuple(
            (
                way,
                f"{self.median(way):,.0f} ±{100 * self.deviation(way):.0f}%",
                "" if way == OURS else f"{ours / self.median(way):.2f}",
                f"{100 * self.median(way) / self.median(_LIMIT):.0f}%",
                f"{self.losses[way]:.4f}" if way in self.losses else "",
            )
            for way in self.rates
        )
        headings = ("", "tokens/s", "plait's speed-up", "of limit", "last loss, nats")
        return Table(self.what, headings, rows, f"Medians and largest deviations; {self.clock}.")


def speeds(
    work: Workload, *, repetitions: int, steps: int, clock: Clock, progress: Callable[[str], None] = lambda _: None
) -> Speeds:
    """Take `steps` steps in every way, `repetitions` times: half of them way by way, the rest in the opposite order.

    One process at a time, so that one base is in memory. Its first steps do not count: memory is first touched and
    kernels are first built there.
    """
    from plait.training.device import matrix_gflops, use_threads
    from simulations.bench.train_ways import PEERS, multiplied_parameters

    use_threads(work.threads)
    operations = 4 * multiplied_parameters(work)
    rates: dict[str, list[float]] = {name: [] for name in (OURS, *PEERS, _LIMIT)}
    losses: dict[str, float] = {}
    ways = [OURS, *PEERS]
    for order, count in ((ways, -(-repetitions // 2)), (ways[::-1], repetitions // 2)):
        for name in order if count else ():
            with _process() as process:
                for repetition in range(count + 1):
                    progress(f"{name}, {len(rates[name])} of {repetitions}")
                    seconds, losses[name] = process.submit(_take, work, name, steps, clock).result()
                    if repetition:
                        rates[name].append(steps * work.tokens / seconds)
        rates[_LIMIT] += (1e9 * matrix_gflops(work.compute, clock=clock.now) / operations for _ in range(count))
    what = f"{work.directory.name}, {work.batch_size} x {work.seq_len} tokens, rank {work.rank}, {work.dtype}"
    return Speeds(what, rates, losses, clock.name)


def _process() -> ProcessPoolExecutor:
    """A separate process, which inherits nothing."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


# The way of this process, once it has one.
_READY: dict[str, Way] = {}


def _take(work: Workload, name: str, steps: int, clock: Clock) -> tuple[float, float]:
    """Seconds of this many steps, and the loss of the last one."""
    from plait.training.device import use_threads
    from simulations.bench.train_ways import WAYS

    if name not in _READY:
        use_threads(work.threads)
        _READY[name] = WAYS[name](work)
    started = clock.now()
    loss = _READY[name](steps)
    return clock.now() - started, loss


def memory(work: Workload, *, progress: Callable[[str], None] = lambda _: None) -> Iterator[Row]:
    """Peak memory of a process that trains, each way in a separate process; the limit is what inference takes."""
    from simulations.bench.train_ways import PEERS

    found: dict[str, float] = {}
    for name in (*_IN_MEMORY, *PEERS):
        progress(f"memory of {name}")
        with _process() as process:
            found[name] = process.submit(_peak_bytes, work, name).result() / 1e6
    value, limit = found.pop(OURS), found.pop("inference")
    what = f"{work.directory.name}, {work.batch_size} x {work.seq_len} tokens, rank {work.rank}, {work.dtype}"
    yield Row(f"{what}: most memory", value, "MB", found, limit=limit)


def _peak_bytes(work: Workload, name: str) -> int:
    import torch

    _, loss = _take(work, name, _MEMORY_STEPS, WALL)
    if not math.isfinite(loss):
        raise ArithmeticError(f"loss of '{name}' is {loss}")
    return torch.cuda.max_memory_allocated() if work.device.startswith("cuda") else machine.peak_rss_bytes()
