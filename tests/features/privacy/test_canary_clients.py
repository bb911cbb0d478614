"""Canary clients through the whole of a private round: participants, encoding, spool, fold, noise, adapter."""

from dataclasses import dataclass

import numpy as np
import pytest

from plait.features.attacks.canary import Audit, right_guesses
from plait.features.privacy import rounds
from plait.features.privacy.mechanism import ClientPrivacy, PrivateMean, multiplier_for
from tests.plait.rounds.conftest import LAYOUT, FakeModel

TRIALS, EPSILON, DELTA = 25, 1.0, 1e-6
PRIVACY = ClientPrivacy(
    noise_multiplier=multiplier_for(EPSILON, DELTA, 1), delta=DELTA, epsilon=EPSILON, clients=LAYOUT.size,
    clip_norm=0.5, quantile=0.5, largest_step=1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Canary(FakeModel):
    """Moves one number of the adapter as far as it can."""

    place: int = 0
    step: float = 0.0

    def trained(self, flat, seed, settings):
        after = flat.copy()
        after[self.place] += np.float32(self.step)
        return after


def audited(federate) -> Audit:
    generator = np.random.default_rng(6)
    coins = generator.random((TRIALS, LAYOUT.size)) < 0.5
    signs = generator.choice([-1.0, 1.0], coins.shape)
    scores = np.zeros(coins.shape)
    for trial in range(TRIALS):
        models = {
            f"canary-{place:02}": Canary(0, 3, place=place, step=1e3 * signs[trial, place])
            for place in np.flatnonzero(coins[trial])
        }
        federation = federate(models, privacy=PRIVACY, rounds=1)
        scores[trial] = signs[trial] * (federation.run().adapter.flat - federation.initial.flat)
    guesses = scores.size // 5
    right = right_guesses(scores.ravel(), coins.ravel(), guesses)
    return Audit.of(right, guesses, canaries=scores.size, delta=DELTA)


@pytest.mark.slow
def test_what_canary_clients_prove_of_the_real_fold_lies_below_epsilon(federate):
    found = audited(federate)
    assert found.bound < EPSILON < found.most


def _no_noise(sigma):
    return type("Silence", (), {"draw": staticmethod(lambda stream, count: np.zeros(count, np.int64))})


def _unclipped(values, *, clip_norm, radius, key):
    del key
    return np.rint(values * (radius / clip_norm)).astype(np.int32)


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["noise", "clip"])
def test_they_notice_a_fold_without_noise_or_clip(federate, monkeypatch, broken):
    assert rounds.PrivateMean is PrivateMean
    name, other = {"noise": ("gaussian", _no_noise), "clip": ("clipped_to_grid", _unclipped)}[broken]
    monkeypatch.setattr(f"plait.features.privacy.mechanism.{name}", other)
    assert audited(federate).bound > EPSILON
