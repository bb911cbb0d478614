import hashlib
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from plait.errors import ConfigError
from plait.features.privacy.accountant import epsilon_at, epsilon_of, sum_term
from plait.features.privacy.mechanism import DEVIATIONS, ClientPrivacy, multiplier_for, shares_for
from tests.features.privacy.test_discrete import chances, chi_square_is_small

PRIVACY = ClientPrivacy(
    noise_multiplier=multiplier_for(8.0, 1e-5, 5, guaranteed=67), delta=1e-5, epsilon=8.0, clients=100, clip_norm=0.5,
    quantile=0.5, largest_step=0.2, guaranteed=67,
)  # fmt: skip


def key(name):
    return hashlib.sha256(str(name).encode()).digest()


@pytest.mark.parametrize("clients", [3, 7])
def test_the_sum_of_shares_has_the_noise_that_is_charged_for(clients):
    """Chi-square against N_Z around the sum of all that is hidden, fractions and all."""
    count, shares = 300_000, shares_for(300_000, 2.0, clients)
    generator = np.random.default_rng(clients)
    centres = [int(each) for each in generator.integers(-9 << shares.fraction_bits, 9 << shares.fraction_bits, clients)]
    drawn = sum(
        shares.around(np.full(count, centre), guaranteed=clients, key=key(number))
        for number, centre in enumerate(centres)
    )
    middle = sum(centres) / (1 << shares.fraction_bits)
    places = np.arange(round(middle) - 120, round(middle) + 120)
    chi_square_is_small(drawn, places, count * chances(shares.variance, middle, places))


def test_what_is_charged_bounds_the_sum_of_shares_itself():
    """Epsilon of the sum's own distribution, convolved share by share, over rounds; one number, moved by the clip."""
    for guaranteed, rounds, noise in ((3, 1, 2.0), (5, 4, 3.0), (67, 5, 1.34), (40, 1, 0.8)):
        shares = shares_for(1, noise, guaranteed)
        shift = round(shares.sensitivity)
        variance = (noise * shift) ** 2 + 2.5  # as for a clip norm of a whole number of units
        places = np.arange(-400, 401)
        one = chances(variance / guaranteed, 0.0, places)
        whole = np.array([1.0])
        for _ in range(guaranteed * rounds):
            whole = np.convolve(whole, one)
            whole = whole[(len(whole) - 801) // 2 :][:801] if len(whole) > 801 else whole
        # The loss is linear in the sum over rounds, which is all that matters of them.
        moved = np.zeros_like(whole)
        moved[rounds * shift :] = whole[: -rounds * shift]
        charged = epsilon_of(1e-5, rounds, noise, guaranteed=guaranteed)
        least = {}
        for name, factor in (("at", 1.0), ("below", 0.97)):
            epsilon = factor * charged
            least[name] = float(np.maximum(moved - math.exp(epsilon) * whole, 0).sum())
        assert least["at"] <= 1e-5
        assert least["below"] > 1e-5, "what is charged is more than 3 % too much"


def test_epsilon_is_little_more_than_that_of_a_gaussian_mechanism():
    for multiplier, rounds, delta in itertools.product((0.5, 2.0, 6.0), (1, 5, 100), (1e-3, 1e-8)):
        found, gaussian = (
            epsilon_of(delta, rounds, multiplier, guaranteed=67),
            epsilon_at(delta, math.sqrt(rounds) / multiplier),
        )
        assert found == pytest.approx(gaussian, rel=1e-3, abs=1e-6)
        assert found > gaussian


def test_the_term_of_the_sum_is_that_of_the_paper():
    """arXiv 2102.06387: tau = 10 sum exp(-2 pi^2 sigma^2 k / (k + 1)) in every number, here of 2^32."""
    tau = 10 * sum(math.exp(-2 * math.pi**2 * 5 * k / (k + 1)) for k in range(1, 67))
    assert 2**32 * tau < sum_term(67) < 2 * 2**32 * tau
    assert epsilon_of(1e-5, 1_000_000, 1000.0, guaranteed=67) == pytest.approx(
        epsilon_of(1e-5, 1_000_000, 1000.0), rel=1e-3
    )


@pytest.mark.parametrize("guaranteed", [3, 67, 900])
@pytest.mark.parametrize("noise", [0.1, 1.34, 20.0])
@pytest.mark.parametrize("size", [1, 4096, 54_016, 2_445_312])
def test_every_grid_has_the_noise_of_its_multiplier_and_shares_wide_enough(guaranteed, noise, size):
    shares = shares_for(size, noise, guaranteed)
    assert math.sqrt(shares.variance - 2.5) / shares.sensitivity == pytest.approx(noise, rel=1e-12)
    assert shares.variance / guaranteed >= 5 * (1 - 1e-12)
    # Rounding to fractions lengthens an update by 1 % at most.
    assert size / 6 <= 0.02 * shares.radius**2 or size == 1
    clients = math.floor(1.5 * guaranteed)
    spread = math.sqrt(1.5 * shares.variance + (clients * shares.sensitivity) ** 2 / size)
    assert 2 ** (shares.bits(clients, size) - 1) > DEVIATIONS * spread


def test_no_update_is_longer_than_the_clip_norm_whatever_is_sent():
    shares, seen = shares_for(4096, 2.0, 3), []
    around = type(shares).around
    generator = np.random.default_rng(0)
    for values in (generator.normal(size=4096), np.full(4096, 1e30), np.full(4096, 1e-20)):
        centres = []
        try:
            type(shares).around = lambda self, given, *, guaranteed, key, kept=centres: (
                kept.append(given) or around(self, given, guaranteed=guaranteed, key=key)
            )
            shares.drawn(values.astype(np.float32), unit=0.5 / shares.sensitivity, guaranteed=3, key=key("x"))
        finally:
            type(shares).around = around
        seen.append(int((centres[0].astype(np.int64) ** 2).sum()))
    assert all(square <= shares.radius**2 for square in seen)
    assert seen[0] > 0.97 * shares.radius**2


def test_an_update_arrives_with_the_noise_around_it():
    size, clients = 4096, 7
    privacy = replace(PRIVACY, clients=clients, guaranteed=clients)
    shares = privacy.shares(size)
    unit = 0.5 / shares.sensitivity
    values = np.zeros(size, np.float32)
    values[:16] = 0.1
    drawn = sum(shares.drawn(values, unit=unit, guaranteed=clients, key=key(number)) for number in range(clients))
    found = drawn * unit / clients
    noise = privacy.noise_multiplier * 0.5 / clients
    assert float(found[:16].mean()) == pytest.approx(0.1, abs=5 * noise / 4)
    assert float((found - values).std()) == pytest.approx(noise, rel=0.06)
    assert privacy.noise_over_clip(size) == pytest.approx(noise * math.sqrt(size) / 0.5, rel=0.01)


def test_clients_that_tell_their_noise_leave_less():
    whole, one, third, all_of_them = (PRIVACY.epsilon_after(5, colluding=count) for count in (0, 1, 22, 67))
    assert whole == pytest.approx(8.0, rel=1e-9)
    assert whole <= 8.0
    left = multiplier_for(8.0, 1e-5, 5) * math.sqrt(45 / 67)
    assert third == pytest.approx(epsilon_of(1e-5, 5, left), rel=0.01)
    assert third > epsilon_of(1e-5, 5, left)
    assert whole < one < third < all_of_them == math.inf


def test_the_budget_ends_before_the_round_that_would_exceed_it():
    assert 5 <= PRIVACY.most_charges < 6
    assert PRIVACY.epsilon_after(6) > 8


def test_noise_that_no_grid_can_carry_is_refused():
    with pytest.raises(ConfigError, match="no grid"):
        shares_for(100, 1e-7, 3)


def test_a_server_cannot_have_a_client_make_a_table_that_does_not_fit_into_memory():
    with pytest.raises(ConfigError, match=r"expected less.*memory"):
        shares_for(2_445_312, 10_000.0, 3)
