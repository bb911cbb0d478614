"""Decisions from a run's evaluations: which steps made the adapter worse, how long the next one is.

An evaluation is worse if its mean held-out loss is above that of the best one before by more than a fraction of the
gain so far, and at least half of the clients that evaluate see it rise. The server then takes half of the
step back (`aggregator.Aggregator.take_back`) and scales the steps that follow, a backtracking line search over rounds
(Armijo, "Minimization of functions having Lipschitz continuous first partial derivatives", 1966). Every evaluation
that is not worse doubles the scale again, up to 1.

Clients evaluate the same sequences every time, so losses are compared client by client, over the clients that two
evaluations have in common. Pure: a run that was killed computes the same standing from its ledger. Knows no adapter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

from plait.rounds.events import Evaluated

_TOLERATED = 0.02
"""Fraction of the gain so far by which an evaluation may exceed the best one before."""
_LEAST_SCALE = 2.0**-10


@dataclass(frozen=True)
class Watch:
    """What a run does about its evaluations.

    Attributes:
        take_back: whether a step that made the adapter worse is taken back, and later steps are shortened.
        keep_best: whether the adapter of the lowest loss is published, not that of the last round.
    """

    take_back: bool = False
    keep_best: bool = False


@dataclass(frozen=True)
class Change:
    """How a loss has changed between two evaluations.

    Attributes:
        mean: over the tokens of the clients, in nats.
        risen: fraction of the clients whose loss has risen, 0 to 1.
    """

    mean: float
    risen: float


def change_since(before: Evaluated, after: Evaluated) -> Change | None:
    """How the loss has changed for the clients that both evaluations have; None if there are none."""
    common = [(after.by_client[name], score) for name, score in before.by_client.items() if name in after.by_client]
    tokens = sum(now.tokens or 1 for now, _ in common)
    if not tokens:
        return None
    changes = [now.loss - score.loss for now, score in common]
    mean = math.fsum(change * (now.tokens or 1) for change, (now, _) in zip(changes, common, strict=True)) / tokens
    return Change(mean, sum(change > 0 for change in changes) / len(changes))


@dataclass(frozen=True)
class Standing:
    """The state that follows from a run's evaluations so far.

    Attributes:
        best: the one of the lowest mean loss.
        accepted: round of the newest evaluation that was not worse; steps are taken back towards it.
        worse: the newest loss minus the best one before, in nats, if that is too much; 0 otherwise.
        scale: of later steps, at most 1.
        round: of the newest evaluation.
    """

    first: Evaluated | None = None
    best: Evaluated | None = None
    accepted: int = 0
    worse: float = 0.0
    scale: float = 1.0
    round: int = 0

    def after(self, newest: Evaluated) -> Standing:
        """The standing after one more evaluation."""
        if self.first is None or self.best is None:
            return Standing(newest, newest, newest.round, round=newest.round)
        rise, fall = change_since(self.best, newest), change_since(self.first, self.best)
        if rise is None:
            # Unknown: the evaluations have no client in common.
            return replace(self, best=newest, accepted=newest.round, worse=0.0, round=newest.round)
        gain = max(0.0, -fall.mean) if fall else 0.0
        standing = replace(self, best=newest if rise.mean < 0 else self.best, round=newest.round)
        if rise.mean > _TOLERATED * gain and rise.risen >= 0.5:
            return replace(standing, worse=rise.mean, scale=max(_LEAST_SCALE, self.scale / 2))
        return replace(standing, accepted=newest.round, worse=0.0, scale=min(1.0, 2 * self.scale))

    def follows_steps_back(self, number: int) -> bool:
        """Whether a round begins where several steps were taken back to, and not on the way of the last one alone."""
        return self.worse > 0 and self.accepted + 1 < self.round == number - 1


def standing_after(evaluations: Iterable[Evaluated]) -> Standing:
    """The standing of a run that begins with these evaluations, in the order of their rounds."""
    return reduce(Standing.after, evaluations, Standing())
