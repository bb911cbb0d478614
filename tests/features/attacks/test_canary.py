"""Canary clients through the private mean: a bound below the promised epsilon, and above it with half the noise."""

import math
from dataclasses import replace

import pytest

from plait.features.attacks.canary import audit
from plait.features.privacy import mechanism
from plait.features.privacy.accountant import epsilon_at
from plait.features.privacy.mechanism import ClientPrivacy, Grid, grid_for, multiplier_for

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


@pytest.mark.slow
@pytest.mark.parametrize("clip_norm", [1.0, None], ids=["fixed", "adaptive"])
def test_rounds_add_up(clip_norm):
    # Four rounds with the noise of one round at epsilon 4 cost much more, and the canaries find more of it.
    settings = replace(privacy(1, clip_norm), epsilon=None)
    once, four = (audit(settings, rounds=rounds, trials=4) for rounds in (1, 4))
    spent = epsilon_at(DELTA, math.sqrt(4) / settings.noise_multiplier)
    assert once.bound < EPSILON
    assert once.bound + 1 < four.bound < spent


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
