"""Canary clients through a run's private mean: what they prove that its noise does not hide.

Each canary is a client that takes part in all rounds that it may or in none, by a fair coin, and moves one number of
its own, in a random direction, by far more than the clip norm. So canaries do not hide each other, and only the noise
stands between the released means and the coins. What is audited is the mechanism with a run's own clip norm, noise and
number of rounds, not the run's clients. Knows no file and no ledger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plait.config import RunConfig
from plait.features.attacks.one_run import lower_bound, right_guesses
from plait.features.privacy.events import intents_in
from plait.features.privacy.mechanism import ClientPrivacy, PrivateMean, SharedMean
from plait.features.privacy.run import privacy_of
from plait.rounds.events import Event

_SIDE_BY_SIDE = 1000
_MOST_TRIALS = 10
_MOST_ROUNDS = 200
_PART_GUESSED = 0.04
# Times the clip norm: a canary does not keep to it.
_LIE = np.float32(1e3)


@dataclass(frozen=True)
class Audit:
    """What canaries prove.

    Attributes:
        bound: epsilon is at least this, at `delta`, with 95 % certainty.
        most: what perfect guesses of as many canaries would prove.
    """

    bound: float
    most: float
    delta: float
    canaries: int
    guesses: int
    right: int

    @classmethod
    def of(cls, right: int, guesses: int, *, canaries: int, delta: float) -> Audit:
        """What a number of right guesses proves."""
        found, most = (lower_bound(each, guesses, canaries=canaries, delta=delta) for each in (right, guesses))
        return cls(found, most, delta, canaries, guesses, right)


def audit(privacy: ClientPrivacy, *, rounds: int, seed: int = 0, trials: int = 0) -> Audit:
    """Let canaries take part in some rounds, and guess which did.

    Args:
        rounds: at least 1.
        seed: of coins, directions and noise: the same gives the same result.
        trials: repetitions with 1,000 canaries of their own; 0 for what takes some seconds.
    """
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
            mean = (
                SharedMean(privacy, size=_SIDE_BY_SIDE, clip_norm=clip_norm, key=key)
                if privacy.guaranteed
                else PrivateMean(privacy, size=_SIDE_BY_SIDE, clip_norm=clip_norm, key=key)
            )
            for canary in np.flatnonzero(coins[part]):
                update = np.zeros(_SIDE_BY_SIDE, np.float32)
                update[canary] = signs[part][canary] * _LIE * np.float32(clip_norm)
                mean.add(str(canary), update)
            released = mean.finish()
            scores[part] += signs[part] * released.mean.astype(np.float64) / clip_norm
            clip_norm = released.clip_norm
    guesses = round(_PART_GUESSED * scores.size)
    right = right_guesses(scores, coins, guesses)
    return Audit.of(right, guesses, canaries=scores.size, delta=privacy.delta)


def proven_and_promised(config: RunConfig, events: Sequence[Event]) -> tuple[Audit | None, float | None]:
    """What canary clients prove of a run's noise, None before its first round; and what the run has promised so far."""
    privacy, charges = privacy_of(config), len(intents_in(events))
    if privacy is None:
        return None, None
    return audit(privacy, rounds=charges) if charges else None, privacy.epsilon_after(charges)
