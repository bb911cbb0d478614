"""How much memory a round of a rule takes, measured in a separate process.

Each update comes in its own buffer, as on a server, so a rule that keeps updates shows it. With a slow rule, only the
updates that fit in the given time are measured; the result says how many.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import time
from dataclasses import dataclass
from pathlib import Path

from plait import machine
from plait.aggregation import Geometry
from plait.flower.rule_table import ALL_RULES
from simulations.bench.updates import Drift, Updates

# Deltas that updates are copies of: with more, the random numbers would dominate.
_POOL = 8


@dataclass(frozen=True)
class Footprint:
    """The memory of one round.

    Attributes:
        rule: its name.
        updates: how many were aggregated.
        early_updates: after how many the first measurement was taken.
        early_bytes: peak resident memory above that before the round, until then.
        peak_bytes: the same until the end, the rule's step included.
        added_bytes: the same until just before the step.
        seconds: of the whole round.
    """

    rule: str
    updates: int
    early_updates: int
    early_bytes: int
    added_bytes: int
    peak_bytes: int
    seconds: float


def measure(rule: str, factors: Geometry, *, early: int, updates: int, seconds: float, seed: int = 0) -> Footprint:
    """Aggregate up to `updates` updates in a new process, for about `seconds`, and measure after `early` of them."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_round, (rule, factors, early, updates, seconds, seed))


def _round(name: str, factors: Geometry, early: int, updates: int, seconds: float, seed: int) -> Footprint:
    rule = ALL_RULES[name]
    source = Updates(rule, factors, seed=seed, drift=Drift())
    pool = [source.delta(client) for client in range(_POOL)]
    _forget_peak()
    before, started = _resident_bytes("VmRSS"), time.perf_counter()
    accumulator = rule.begin(source.context)
    folded = early_bytes = 0
    for client in range(updates):
        accumulator.add(source.contribution(client, pool[client % _POOL]))
        folded += 1
        if folded == early:
            early_bytes = _resident_bytes("VmHWM") - before
        if folded >= early and time.perf_counter() - started > seconds:
            break
    added_bytes = _resident_bytes("VmHWM") - before
    accumulator.finish()
    peak_bytes = _resident_bytes("VmHWM") - before
    return Footprint(
        name, folded, min(early, folded), early_bytes, added_bytes, peak_bytes, time.perf_counter() - started
    )


def _forget_peak() -> None:
    """Reset the process's peak to its current resident memory, where the system supports it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident_bytes(field: str) -> int:
    """A field of this process's status; on other systems than Linux its peak, for both fields."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return 1024 * int(found[1]) if found else machine.peak_rss_bytes()
