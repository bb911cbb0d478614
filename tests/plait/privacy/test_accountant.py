import json
import math
from pathlib import Path

import numpy as np
import pytest

from plait.errors import ConfigError
from plait.privacy.accountant import delta_at, epsilon_at, mu_at

ORACLE = json.loads((Path(__file__).parent / "oracle.json").read_text())


@pytest.mark.parametrize("case", ORACLE, ids=lambda case: f"z{case['multiplier']}-T{case['rounds']}-{case['delta']}")
def test_epsilon_is_that_of_dp_accounting_s_privacy_loss_distributions(case):
    # Recorded by make_oracle.py.
    mu = math.sqrt(case["rounds"]) / case["multiplier"]
    assert epsilon_at(case["delta"], mu) == pytest.approx(case["epsilon"], rel=1e-7)


def test_the_oracle_has_many_values():
    assert len(ORACLE) >= 30


@pytest.mark.parametrize("mu", [0.05, 0.5, 1.7, 6.0])
def test_delta_is_the_largest_difference_that_an_attacker_can_reach(mu):
    # Hockey-stick divergence of N(mu, 1) from N(0, 1), integrated on a grid.
    x = np.linspace(-40, 40 + mu, 2_000_001)
    density = np.exp(-((x - mu) ** 2) / 2) / math.sqrt(2 * math.pi)
    other = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    for epsilon in (0.0, 0.1, 1.0, 5.0):
        expected = np.trapezoid(np.maximum(density - math.exp(epsilon) * other, 0), x)
        assert delta_at(epsilon, mu) == pytest.approx(expected, rel=1e-5, abs=1e-15)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-12])
@pytest.mark.parametrize("epsilon", [0.01, 1.0, 8.0, 300.0])
def test_epsilon_and_mu_are_inverse_and_rounded_to_the_safe_side(epsilon, delta):
    mu = mu_at(epsilon, delta)
    assert epsilon_at(delta, mu) <= epsilon
    assert epsilon_at(delta, mu) == pytest.approx(epsilon, rel=1e-6)
    assert delta_at(epsilon, mu) <= delta * (1 + 1e-9)


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


def test_no_noise_is_no_privacy():
    assert epsilon_at(1e-5, math.inf) == math.inf
