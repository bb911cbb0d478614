"""The difference of held-out loss between two groups of runs, with a 95 % interval, paired where runs can be paired.

Over seeds: with two or more seeds in common, the loss of one run is subtracted from that of the other with the same
seed, and the interval is that of the mean. It covers what the seed decides: initial values, batches, cohorts, random
partitions.

Over sequences: a ledger has no losses of single sequences, but the change of every run since its start, taken sequence
by sequence. Runs that start with the same losses on the same sequences differ by the difference of their changes. Its
interval assumes that the two changes are independent; on the same sequences they rather rise and fall together, so it
is too wide rather than too narrow. It covers the choice of held-out sequences, not the seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from plait.studies.runs import Group, StudiedRun


def margin_of_mean(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of a mean of independent values, by Student's distribution; None for fewer than two."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # a tenth of the time that scipy.stats takes to load

    return float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))


class Pairing(StrEnum):
    """What a difference is paired over."""

    SEEDS = "seeds"
    SEQUENCES = "sequences"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Difference:
    """How much the loss of one group is above that of another, in nats; no margin where nothing is known of it."""

    mean: float
    margin: float | None
    pairing: Pairing
    pairs: int = 1


def difference(group: Group, baseline: Group) -> Difference | None:
    """The loss of `group` minus that of `baseline`; None where one has no loss, or their losses cannot be compared."""
    ours = {run.seed: run for run in group.counted}
    theirs = {run.seed: run for run in baseline.counted}
    if not ours or not theirs or group.runs[0].task != baseline.runs[0].task:
        return None
    common = sorted(ours.keys() & theirs.keys())
    if len(common) >= 2:
        moved = [_loss(ours[seed]) - _loss(theirs[seed]) for seed in common]
        return Difference(statistics.fmean(moved), margin_of_mean(moved), Pairing.SEEDS, len(common))
    if common or len(ours) == len(theirs) == 1:
        one = ours[common[0]] if common else next(iter(ours.values()))
        other = theirs[common[0]] if common else next(iter(theirs.values()))
        return _of_two(one, other)
    groups = [[_loss(run) for run in runs.values()] for runs in (ours, theirs)]
    mean = statistics.fmean(groups[0]) - statistics.fmean(groups[1])
    return Difference(mean, _together(*map(margin_of_mean, groups)), Pairing.NOTHING)


def _of_two(one: StudiedRun, other: StudiedRun) -> Difference:
    mean = _loss(one) - _loss(other)
    if one.final and other.final and one.beginning and one.beginning == other.beginning:
        margin = _together(one.final.change_margin, other.final.change_margin)
        if margin is not None:
            return Difference(mean, margin, Pairing.SEQUENCES)
    margins = (run.final.loss_margin if run.final else None for run in (one, other))
    return Difference(mean, _together(*margins), Pairing.NOTHING)


def _together(one: float | None, other: float | None) -> float | None:
    """The margin of the sum or difference of two independent figures."""
    return None if one is None or other is None else math.hypot(one, other)


def _loss(run: StudiedRun) -> float:
    return run.final.loss if run.final else math.nan
