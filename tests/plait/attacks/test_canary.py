"""Canary clients through the private mean: a bound below the promised epsilon, and above it with half the noise."""

import math
from dataclasses import replace

import pytest

from plait.attacks.canary import audit, lower_bound
from plait.privacy import mechanism
from plait.privacy.mechanism import ClientPrivacy, Grid, grid_for, multiplier_for

# With a delta of 1e-5 and so many canaries its share in the bound would hide the other half of the noise.
EPSILON, DELTA = 4.0, 1e-6
TRIALS = 60


def privacy(rounds: int, clip_norm: float | None = 1.0) -> ClientPrivacy:
    return ClientPrivacy(
        noise_multiplier=multiplier_for(EPSILON, DELTA, rounds), delta=DELTA, epsilon=EPSILON, clients=1000,
        clip_norm=clip_norm, quantile=0.5, largest_step=1.0,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_what_canaries_prove_lies_below_epsilon_and_above_it_with_half_the_noise(monkeypatch, seed):
    honest = audit(privacy(1), rounds=1, seed=seed, trials=TRIALS)
    assert 1.5 < honest.bound < EPSILON < honest.most

    def halved(size: int, noise_multiplier: float) -> Grid:
        return grid_for(size, noise_multiplier / 2)

    monkeypatch.setattr(mechanism, "grid_for", halved)
    assert audit(privacy(1), rounds=1, seed=seed, trials=TRIALS).bound > EPSILON


def test_the_same_seed_gives_the_same_bound_and_another_another():
    first, again, other = (audit(privacy(2), rounds=2, seed=seed, trials=2).right for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.slow
def test_shares_of_the_noise_hide_canaries_as_well_as_they_promise(monkeypatch):
    settings = replace(
        privacy(1), clients=12, guaranteed=8, noise_multiplier=multiplier_for(EPSILON, DELTA, 1, guaranteed=8)
    )
    assert 1.2 < audit(settings, rounds=1, trials=25).bound < EPSILON
    halved = mechanism.discrete_gaussian
    monkeypatch.setattr(mechanism, "discrete_gaussian", lambda variance, bits: halved(variance / 4, bits))
    assert audit(settings, rounds=1, trials=25).bound > EPSILON


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Appendix D of arXiv 2305.08846, term by term."""
    q = 1 / (1 + math.exp(-epsilon))
    pmf = [math.comb(guesses, k) * q**k * (1 - q) ** (guesses - k) for k in range(guesses + 1)]
    alpha = total = 0.0
    for i in range(1, right + 1):
        total += pmf[right - i]
        alpha = max(alpha, total / i)
    return min(1.0, sum(pmf[right:]) + alpha * delta * 2 * canaries)


@pytest.mark.parametrize(("guesses", "right", "canaries", "delta"), [
    (100, 95, 1000, 1e-5), (100, 100, 1000, 1e-5), (60, 50, 20_000, 1e-5), (100, 80, 300, 1e-3),
])  # fmt: skip
def test_the_bound_is_where_the_paper_s_p_value_crosses_one_in_twenty(guesses, right, canaries, delta):
    found = lower_bound(right, guesses, canaries=canaries, delta=delta)
    assert (
        p_value(canaries, guesses, right, found - 1e-6, delta)
        <= 0.05
        < p_value(canaries, guesses, right, found + 1e-6, delta)
    )
