"""Decisions from a run's evaluations: which adapters are published, which steps are taken back, how long the next is.

Steps are taken back by a line search over rounds (Armijo, 1966). Losses are compared client by client, over the clients
that two evaluations have in common, so that fewer than half of them cannot make an adapter that the others see is worse
be published; those of masked sums by how far they are from the start. Pure: a run that was killed computes the same
from its ledger.
"""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Self

from plait.ledger.events import Evaluated, NotPublished, Score

_TOLERATED = 0.02
"""Fraction of the gain so far by which an evaluation may exceed the best one before."""
_LEAST_SCALE = 2.0**-10
_LESS_IS_BETTER = frozenset({"loss", "perplexity", "bits_per_byte"})


@dataclass(frozen=True)
class Watch:
    """What a run does about its evaluations."""

    # which adapters are published: ``accepted`` and ``best`` by the `Guard`, ``last`` for every round's
    keep: str = "last"
    by: str = ""  # the metric that decides; empty for the loss
    take_back: bool = False  # whether a step that made the adapter worse is taken back, and later steps are shortened

    @property
    def guards(self) -> bool:
        """Whether an adapter is published only once its evaluation allows it."""
        return self.keep != "last"


def judged(evaluated: Evaluated, by: str) -> Evaluated:
    """The evaluation with a metric in the place of the loss: itself if less of it is better, else what it lacks to 1.

    Clients without the metric are left out; an evaluation without it is the worst.
    """
    if not by:
        return evaluated

    def of(score: Score) -> dict[str, float | None]:
        figure = (score.metrics or {}).get(by, 0.0)
        return {"loss": figure if by in _LESS_IS_BETTER else 1.0 - figure, "change": None}

    known = {name: score for name, score in evaluated.by_client.items() if by in (score.metrics or {})}
    clients = {name: score.model_copy(update=of(score)) for name, score in known.items()}
    return evaluated.model_copy(update={**of(evaluated), "by_client": clients})


@dataclass(frozen=True)
class Change:
    """How a loss has changed between two evaluations."""

    mean: float  # over the tokens of the clients, in nats
    median: float  # over the clients, in nats; the mean where losses of single clients are not known
    risen: int | None = None  # number of clients whose loss has risen; None likewise
    clients: int = 0  # those that both evaluations have; 0 likewise

    @property
    def is_of_most(self) -> bool:
        """Whether the loss of at least half of the clients has risen."""
        return self.risen is not None and 2 * self.risen >= self.clients


def change_since(before: Evaluated, after: Evaluated) -> Change | None:
    """How the loss has changed for the clients that both evaluations have; None if there are none."""
    if not before.by_client and not after.by_client:
        mean = _of_sums(before, after)
        return Change(mean, mean)
    common = [(after.by_client[name], score) for name, score in before.by_client.items() if name in after.by_client]
    tokens = sum(now.tokens or 1 for now, _ in common)
    if not tokens:
        return None
    changes = [now.loss - score.loss for now, score in common]
    mean = math.fsum(change * (now.tokens or 1) for change, (now, _) in zip(changes, common, strict=True)) / tokens
    return Change(mean, statistics.median(changes), sum(change > 0 for change in changes), len(changes))


def _of_sums(before: Evaluated, after: Evaluated) -> float:
    """Of two masked sums, perhaps of other clients: by how far each is from its own start, if all report it."""
    began = before.change if before.round else 0.0
    return after.loss - before.loss if began is None or after.change is None else after.change - began


@dataclass(frozen=True)
class Guard:
    """Which of a run's evaluated adapters may be published.

    One whose loss, by the mean and by the median client, is above neither the base's nor, by more than a fraction of
    the gain so far, the best published one's.
    """

    by: str = ""  # the metric in the place of the loss, if any
    is_strict: bool = False  # whether only one of a lower loss than all before is (``best``)
    base: Evaluated | None = None
    best: Evaluated | None = None  # of the published ones the one of the lowest mean loss
    kept: Evaluated | None = None
    # how far the newest evaluation is above `above`, if it is not published; None if that is not known
    risen: Change | None = None
    # the evaluation that it is above; None if it is published, or not known to be better than the base
    above: Evaluated | None = None

    def after(self, newest: Evaluated) -> Self:
        """The guard after one more evaluation."""
        newest = judged(newest, self.by)
        if newest.round == 0:
            return replace(self, base=newest, best=newest, kept=newest)
        since_base = change_since(self.base, newest) if self.base else _reported(newest)
        if since_base is None or _rise(since_base) > 0:
            return replace(self, risen=since_base, above=self.base)
        since = change_since(self.best, newest) if self.best else None
        gained = change_since(self.base, self.best) if self.base and self.best else None
        tolerated = 0.0 if self.is_strict or not gained else _TOLERATED * max(0.0, -gained.mean)
        if since and (_rise(since) > tolerated or (self.is_strict and since.mean >= 0)):
            return replace(self, risen=since, above=self.best)
        is_best = since is None or since.mean < 0
        return replace(self, best=newest if is_best else self.best, kept=newest, risen=None, above=None)

    def refusal(self, newest: Evaluated) -> NotPublished:
        """The event of the newest evaluation, whose adapter is not published."""
        risen, kept = self.risen, self.kept.round if self.kept else 0
        if risen is None or self.above is None:
            return NotPublished(round=newest.round, kept=kept)
        higher = None if risen.risen is None else (risen.risen, risen.clients)
        above, by = self.above.round, max(0.0, _rise(risen))
        return NotPublished(round=newest.round, kept=kept, risen=by, above=above, higher=higher, by=self.by or None)

    def publishes(self, evaluated: Evaluated) -> bool:
        """Whether this, the newest evaluation, is of an adapter that may be published."""
        return self.kept is not None and self.kept.round == evaluated.round


def guard_after(keep: str, evaluations: Iterable[Evaluated], by: str = "") -> Guard:
    """The guard of a run that begins with these evaluations, in the order of their rounds."""
    return reduce(Guard.after, evaluations, Guard(by, is_strict=keep == "best"))


def _rise(change: Change) -> float:
    return max(change.mean, change.median)


def _reported(evaluated: Evaluated) -> Change | None:
    """The change since the start as clients report it, for a run that has not seen the base evaluated."""
    if evaluated.change is None:
        return None
    reported = [each.change for each in evaluated.by_client.values() if each.change is not None]
    return Change(evaluated.change, statistics.median(reported or [evaluated.change]))


@dataclass(frozen=True)
class EvaluationHistory:
    """The state that follows from a run's evaluations so far.

    A step is worse if the mean loss is above the best one before by more than a fraction of the gain, and at least half
    of the clients see it rise. It halves the scale of those that follow; every other one doubles it again, up to 1.
    """

    by: str = ""  # the metric in the place of the loss, if any
    first: Evaluated | None = None
    best: Evaluated | None = None  # the one of the lowest mean loss
    accepted: int = 0  # round of the newest evaluation that was not worse; steps are taken back towards it
    worse: float = 0.0  # the newest loss minus the best one before, in nats, if that is too much; 0 otherwise
    scale: float = 1.0
    round: int = 0

    def after(self, newest: Evaluated) -> Self:
        """The standing after one more evaluation."""
        newest = judged(newest, self.by)
        if self.first is None or self.best is None:
            return replace(self, first=newest, best=newest, accepted=newest.round, round=newest.round)
        rise, fall = change_since(self.best, newest), change_since(self.first, self.best)
        if rise is None:
            # Unknown: the evaluations have no client in common.
            return replace(self, best=newest, accepted=newest.round, worse=0.0, round=newest.round)
        gain = max(0.0, -fall.mean) if fall else 0.0
        standing = replace(self, best=newest if rise.mean < 0 else self.best, round=newest.round)
        if rise.mean > _TOLERATED * gain and rise.is_of_most:
            return replace(standing, worse=rise.mean, scale=max(_LEAST_SCALE, self.scale / 2))
        return replace(standing, accepted=newest.round, worse=0.0, scale=min(1.0, 2 * self.scale))

    def follows_steps_back(self, number: int) -> bool:
        """Whether a round begins where several steps were taken back to, and not on the way of the last one alone."""
        return self.worse > 0 and self.accepted + 1 < self.round == number - 1


def standing_after(evaluations: Iterable[Evaluated], by: str = "") -> EvaluationHistory:
    """The standing of a run that begins with these evaluations, in the order of their rounds."""
    return reduce(EvaluationHistory.after, evaluations, EvaluationHistory(by))
