import itertools
import math

import numpy as np
import pytest

from plait.errors import ConfigError
from plait.features.privacy.accountant import epsilon_at, mu_at


def delta_of(epsilon: float, mu: float) -> float:
    """Corollary 2.13 of arXiv 1905.02383: Phi(-epsilon/mu + mu/2) - exp(epsilon) Phi(-epsilon/mu - mu/2)."""
    near, far = (math.erfc((epsilon / mu + half) / math.sqrt(2)) / 2 for half in (-mu / 2, mu / 2))
    return near - math.exp(epsilon) * far


def closed_form(delta: float, mu: float) -> float:
    low, high = 0.0, mu * mu + 20 * mu
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if delta_of(middle, mu) <= delta else (middle, high)
    return high


@pytest.mark.parametrize(
    ("multiplier", "rounds", "delta"), list(itertools.product((0.5, 1.0, 2.0, 6.0), (1, 5, 100), (1e-3, 1e-5, 1e-8)))
)
def test_epsilon_of_composed_mechanisms_is_that_of_the_closed_form(multiplier, rounds, delta):
    mu = math.sqrt(rounds) / multiplier
    expected = closed_form(delta, mu)
    found = epsilon_at(delta, mu)
    assert found == pytest.approx(expected, rel=1e-6)
    assert delta_of(found, mu) <= delta * (1 + 1e-7)


@pytest.mark.parametrize("mu", [0.05, 0.5, 1.7, 6.0])
def test_the_closed_form_is_the_largest_difference_that_an_attacker_can_reach(mu):
    # Hockey-stick divergence of N(mu, 1) from N(0, 1), integrated on a grid.
    x = np.linspace(-40, 40 + mu, 2_000_001)
    density = np.exp(-((x - mu) ** 2) / 2) / math.sqrt(2 * math.pi)
    other = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    for epsilon in (0.0, 0.1, 1.0, 5.0):
        expected = np.trapezoid(np.maximum(density - math.exp(epsilon) * other, 0), x)
        assert delta_of(epsilon, mu) == pytest.approx(expected, rel=1e-5, abs=1e-15)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-12])
@pytest.mark.parametrize("epsilon", [0.01, 1.0, 8.0, 300.0])
def test_epsilon_and_mu_are_inverse_and_rounded_to_the_safe_side(epsilon, delta):
    mu = mu_at(epsilon, delta)
    assert epsilon_at(delta, mu) <= epsilon
    assert epsilon_at(delta, mu) == pytest.approx(epsilon, rel=1e-6)
    assert delta_of(epsilon, mu) <= delta * (1 + 1e-9)


def test_noise_for_the_number_of_clients_is_as_published():
    # Norm of the noise over the clip norm at epsilon 8, delta 1e-5, 5 rounds: 262 for 2.44 million numbers and 8
    # clients (docs/guides/privacy.md), 0.31 for 54 thousand numbers and 1,000 clients.
    z = math.sqrt(5) / mu_at(8, 1e-5)
    assert z * math.sqrt(2.44e6) / 8 == pytest.approx(262, rel=0.01)
    assert z * math.sqrt(54e3) / 1000 == pytest.approx(0.31, rel=0.01)


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 1e-5), (-1, 1e-5), (math.nan, 1e-5), (1, 0), (1, 1), (1e9, 1e-5)])
def test_what_is_out_of_range_is_refused(epsilon, delta):
    with pytest.raises(ConfigError, match="expected more than 0"):
        mu_at(epsilon, delta)


def test_no_noise_is_no_privacy_and_no_round_costs_nothing():
    assert epsilon_at(1e-5, math.inf) == math.inf
    assert epsilon_at(1e-5, 0.0) == 0.0
