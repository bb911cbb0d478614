import math

import numpy as np
import pytest

from plait.features.privacy import noise as discrete
from plait.features.privacy.noise import DiscreteGaussian, Keystream

KEY = bytes(range(32))


def chances(variance, centre, places):
    """Of whole numbers, in float64; none is beyond 12 deviations."""
    far = math.ceil(12 * math.sqrt(variance)) + 2
    every = np.arange(math.floor(centre) - far, math.floor(centre) + far + 1)
    density = np.exp(-((every - centre) ** 2) / (2 * variance))
    found = dict(zip(every.tolist(), (density / density.sum()).tolist(), strict=True))
    return np.array([found.get(place, 0.0) for place in places])


def chi_square_is_small(drawn, places, expected):
    counted = np.array([(drawn == place).sum() for place in places])
    enough = expected > 10
    statistic = float(((counted - expected) ** 2 / np.maximum(expected, 1e-300))[enough].sum())
    freedom = int(enough.sum()) - 1
    # Wilson and Hilferty: a normal variable at 5 standard deviations.
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 5 * math.sqrt(2 / (9 * freedom))) ** 3
    assert (len(drawn) - counted[enough].sum()) < 200


@pytest.mark.parametrize("variance", [5.0, 85.3])
@pytest.mark.parametrize(("rest", "bits"), [(0, 3), (1, 10), (511, 10), (512, 10), (1023, 10), (0, 0)])
def test_the_numbers_around_any_fraction_have_the_distribution_of_the_discrete_gaussian(variance, rest, bits):
    whole, count = -7, 300_000
    centres = np.full(count, whole * (1 << bits) + rest)
    drawn = DiscreteGaussian(variance, bits).draw(Keystream(KEY), centres)
    places = np.arange(whole - 60, whole + 60)
    chi_square_is_small(drawn, places, count * chances(variance, whole + rest / (1 << bits), places))


@pytest.mark.slow
def test_what_the_table_cannot_decide_is_decided_exactly(monkeypatch):
    """A coarse table leaves many draws to exact numbers, and gives the same result."""
    centres = np.random.default_rng(0).integers(-5000, 5000, 1500)
    fine = DiscreteGaussian(5.0, 6).draw(Keystream(KEY), centres)
    monkeypatch.setattr(discrete, "_GUARD", 0.02)
    coarse, asked = DiscreteGaussian(5.0, 6), []
    resolved = coarse._resolved
    monkeypatch.setattr(coarse, "_resolved", lambda *given: asked.append(given) or resolved(*given))
    np.testing.assert_array_equal(coarse.draw(Keystream(KEY), centres), fine)
    assert len(asked) > 15


def test_the_rarest_draws_reach_beyond_the_table():
    gaussian = DiscreteGaussian(5.0, 2)
    for row in (0, 1, 4):
        assert gaussian._resolved(0, row, Keystream(KEY)) <= -19
        assert gaussian._resolved((1 << 63) - 1, row, Keystream(KEY)) in (0, 1)
