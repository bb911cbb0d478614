import pytest

from plait.wire.codecs.paths import Mix
from plait.wire.codecs.prices import PricePair


@pytest.mark.parametrize("bits", [0.1, 0.4, 1.0, 3.0])
def test_a_gentle_rate_is_enclosed(bits):
    pair = PricePair.around(0.5, bits, lambda price: 0.5 * price**-0.8)
    assert pair.most >= bits >= pair.least
    assert pair.low < pair.high
    assert pair.least == 0.5 * pair.high**-0.8


def test_a_rate_that_jumps_is_enclosed_by_prices_on_both_sides_of_the_jump():
    pair = PricePair.around(0.3, 0.25, lambda price: 0.6 if price < 0.31 else 0.02)
    assert pair.low < 0.31 <= pair.high
    assert (pair.most, pair.least) == (0.6, 0.02)
    assert pair.mix(pair.share(0.25)) == Mix(pair.low, pair.high, pytest.approx(0.23 / 0.58))


def test_a_rate_out_of_reach_ends_after_a_few_attempts():
    asked = []
    PricePair.around(0.3, 1.0, lambda price: asked.append(price) or 5.0)
    PricePair.around(0.3, 1.0, lambda price: asked.append(price) or 0.0)
    assert len(asked) <= 20
    assert all(0.01 <= price <= 10 for price in asked)


def test_beyond_both_prices_there_is_a_single_one():
    pair = PricePair(0.2, 0.4, 1.0, 0.5)
    assert pair.share(1.5) == 2
    assert pair.mix(2) == Mix(pytest.approx(0.1), pytest.approx(0.1), 2)
    assert pair.mix(-1) == Mix(pytest.approx(0.8), pytest.approx(0.8), -1)
