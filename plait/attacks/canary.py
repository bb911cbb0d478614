"""Canary clients through a run's private mean: what they prove that its noise does not hide.

Each canary takes part in all rounds that it may or in none, by a fair coin, and moves one number of its own by far more
than the clip norm. The mechanism is audited with a run's own clip norm, noise and number of rounds, not its clients.

The bound: Steinke, Nasr and Jagielski, arXiv 2305.08846, theorem 5.2 and appendix D. Under (epsilon,
delta)-differential privacy the number of right guesses among r of m canaries is at least v with probability at most

    beta + 2 m delta alpha,   beta = P(B >= v),   alpha = max over i of P(v > B >= v - i) / i,

B ~ Binomial(r, e^epsilon / (1 + e^epsilon)). So a rarer result refutes epsilon.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import bdtr, bdtrc

from plait.config import RunConfig
from plait.ledger.events import Event
from plait.ledger.privacy import intents_in
from plait.privacy.mechanism import ClientPrivacy, PrivateMean
from plait.privacy.run import privacy_of

_SIDE_BY_SIDE = 1000
_MOST_TRIALS = 10
_MOST_ROUNDS = 200
_PART_GUESSED = 0.04
# Times the clip norm: a canary does not keep to it.
_LIE = np.float32(1e3)
_FAILURE = 0.05
"""Probability with which a bound may be wrong."""
_LARGEST = 50.0


@dataclass(frozen=True)
class Audit:
    """What guesses about canaries, or about groups of records in their place, prove.

    Epsilon is at least `bound`, with 95 % certainty; perfect guesses would prove `most`.
    """

    bound: float
    most: float
    delta: float
    canaries: int
    right: int

    @classmethod
    def of(cls, scores: NDArray[np.float64], coins: NDArray[np.bool_], *, part: float, delta: float) -> Self:
        """Of this part of the canaries, half with the highest scores are guessed to be in, and half not."""
        half, order = round(part * scores.size / 2), np.argsort(scores, kind="stable")
        right = int((~coins[order[:half]]).sum() + coins[order[scores.size - half :]].sum())
        found, most = (lower_bound(each, 2 * half, canaries=scores.size, delta=delta) for each in (right, 2 * half))
        return cls(found, most, delta, scores.size, right)


def audit(privacy: ClientPrivacy, *, rounds: int, seed: int = 0, trials: int = 0) -> Audit:
    """Let canaries take part in some rounds, and guess which did: 1,000 in each trial, as many as take some seconds."""
    trials = trials or max(1, min(_MOST_TRIALS, _MOST_ROUNDS // rounds))
    generator = np.random.default_rng(seed)
    scores = np.zeros(trials * _SIDE_BY_SIDE)
    coins = generator.random(scores.size) < 0.5
    signs = generator.choice(np.array([-1.0, 1.0], np.float32), scores.size)
    for trial in range(trials):
        part = slice(trial * _SIDE_BY_SIDE, (trial + 1) * _SIDE_BY_SIDE)
        clip_norm = privacy.first_clip(_SIDE_BY_SIDE)
        keys = [hashlib.sha256(f"canaries {seed} {trial} {number}".encode()).digest() for number in range(rounds)]
        for key in keys:
            mean = PrivateMean(privacy, size=_SIDE_BY_SIDE, clip_norm=clip_norm, key=key)
            for canary in np.flatnonzero(coins[part]):
                update = np.zeros(_SIDE_BY_SIDE, np.float32)
                update[canary] = signs[part][canary] * _LIE * np.float32(clip_norm)
                mean.add(str(canary), update)
            released, next_clip = mean.finish()
            scores[part] += signs[part] * released.astype(np.float64) / clip_norm
            clip_norm = next_clip
    return Audit.of(scores, coins, part=_PART_GUESSED, delta=privacy.delta)


def proven_and_promised(config: RunConfig, events: Sequence[Event]) -> tuple[Audit | None, float | None]:
    """What canary clients prove of a run's noise, None before its first round; and what the run has promised so far."""
    privacy, charges = privacy_of(config), len(intents_in(events))
    if privacy is None:
        return None, None
    return audit(privacy, rounds=charges) if charges else None, privacy.epsilon_after(charges)


def lower_bound(right: int, guesses: int, *, canaries: int, delta: float) -> float:
    """The largest epsilon that this many right of `guesses`, fixed before the results are seen, refute."""

    def beyond(epsilon: float) -> float:
        return _probability(right, guesses, epsilon, canaries=canaries, delta=delta) - _FAILURE

    return 0.0 if beyond(0.0) > 0 else cast("float", brentq(beyond, 0.0, _LARGEST))


def _probability(right: int, guesses: int, epsilon: float, *, canaries: int, delta: float) -> float:
    """The largest probability of this many right guesses under (epsilon, delta)."""
    chance = 1 / (1 + math.exp(-epsilon))
    beta = float(bdtrc(right - 1, guesses, chance)) if right else 1.0
    if not delta or not right:
        return beta
    # P(B < right - i) for i from 0 to right.
    fewer: NDArray[np.float64] = np.append(bdtr(np.arange(right - 1, -1, -1), guesses, chance), 0.0)
    alpha = float(((fewer[0] - fewer[1:]) / np.arange(1, right + 1)).max())
    return min(1.0, beta + 2 * canaries * delta * alpha)
