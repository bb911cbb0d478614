import itertools
import math

import pytest

from plait.errors import ConfigError
from plait.guarantees import _cell, epsilon_at, mu_at, noise_for, sampled_epsilon


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


CASES = list(itertools.product((0.6, 1.0, 2.0, 6.0), (0.001, 0.01, 0.064, 0.4), (1, 50, 2000), (1e-5, 1e-8)))
FEW = 24


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta"),
    [*CASES[5::FEW], *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[1::FEW])],
)
def test_epsilon_of_samples_is_that_of_a_grid_four_times_as_fine(noise, rate, steps, delta):
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    finer = PLDAccountant(value_discretization_interval=_cell(noise, rate, steps) / 4)
    finer.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps)
    expected = finer.get_epsilon(delta)
    assert sampled_epsilon(noise, rate, steps, delta) == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("queries", "sensitivity", "rate", "published"), [
    (1, 1, 0.01, 0.67379294682), (25, 6, 0.001, 3.20956502598),
])  # fmt: skip
def test_noise_is_as_published_with_google_s_accountant(queries, sensitivity, rate, published):
    # The smallest deviation for epsilon 1 at delta 1e-5, of the documented cases of get_smallest_subsampled_gaussian_
    # noise: github.com/google/differential-privacy, python/dp_accounting/dp_accounting/pld/accountant_test.py.
    assert sensitivity * noise_for(1.0, 1e-5, rate, queries) == pytest.approx(published, rel=1e-3)


@pytest.mark.slow
def test_noise_for_an_epsilon_keeps_to_it_and_little_more_than_that():
    noise = noise_for(2.0, 1e-5, 0.1, 30)
    assert sampled_epsilon(noise, 0.1, 30, 1e-5) <= 2.0
    assert sampled_epsilon(noise * 0.998, 0.1, 30, 1e-5) > 2.0


def test_too_much_noise_is_refused():
    with pytest.raises(ConfigError, match="give a larger epsilon or fewer steps"):
        noise_for(1e-6, 1e-12, 1.0, 1000)
