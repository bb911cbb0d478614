"""Canary clients through the private mean: a bound below the promised epsilon, and above it with half the noise."""

import numpy as np
import pytest

from plait.privacy import mechanism
from plait.privacy.grid import Grid, grid_for
from plait.privacy.mechanism import ClientPrivacy, PrivateMean, multiplier_for
from tests.plait.privacy.one_run_audit import lower_bound, right_guesses

EPSILON, DELTA = 4.0, 1e-5
CANARIES = 1000
ROUNDS = 60
GUESSES = 800
PRIVACY = ClientPrivacy(
    noise_multiplier=multiplier_for(EPSILON, DELTA, 1), delta=DELTA, epsilon=EPSILON, clients=CANARIES, clip_norm=1.0,
    quantile=0.5, largest_step=1.0,
)  # fmt: skip


def audited(seed: int) -> float:
    """Every canary moves a number of its own, in one round: so each client's privacy is that of one round."""
    generator = np.random.default_rng(seed)
    scores, coins = [], []
    for number in range(ROUNDS):
        took_part = generator.random(CANARIES) < 0.5
        mean = PrivateMean(
            PRIVACY, size=CANARIES, clip_norm=1.0, key=seed.to_bytes(16, "big") + number.to_bytes(16, "big")
        )
        for canary in np.flatnonzero(took_part):
            update = np.zeros(CANARIES, np.float32)
            update[canary] = 1e3  # a lie: it is clipped
            mean.add(str(canary), update)
        scores.append(mean.finish().mean * CANARIES)
        coins.append(took_part)
    return lower_bound(right_guesses(np.concatenate(scores), np.concatenate(coins), GUESSES), GUESSES)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_what_canaries_prove_lies_below_epsilon_and_above_it_with_half_the_noise(monkeypatch, seed):
    honest = audited(seed)
    assert 1.0 < honest < EPSILON

    def halved(size: int, noise_multiplier: float) -> Grid:
        return grid_for(size, noise_multiplier / 2)

    monkeypatch.setattr(mechanism, "grid_for", halved)
    assert audited(seed) > EPSILON


def test_the_bound_of_perfect_guesses_is_that_of_the_paper_s_formula():
    # All of m right: p^m = 0.05, so epsilon = log(p / (1 - p)).
    for m, expected in ((100, 3.5), (1000, 5.8), (10_000, 8.1)):
        p = 0.05 ** (1 / m)
        assert lower_bound(m, m) == pytest.approx(np.log(p / (1 - p)), rel=1e-6)
        assert lower_bound(m, m) == pytest.approx(expected, abs=0.06)
    assert lower_bound(500, 1000) == 0.0
