import hashlib
import math
import operator
from dataclasses import replace

import numpy as np
import pytest

from plait.errors import ConfigError
from plait.guarantees import epsilon_of
from plait.privacy.mechanism import (
    DEVIATIONS,
    SHARE,
    ClientPrivacy,
    PrivateMean,
    clipped_to_grid,
    grid_for,
    multiplier_for,
    shares_for,
)
from tests.plait.privacy.test_noise import chances, chi_square_is_small

PRIVACY = ClientPrivacy(
    noise_multiplier=1.5, delta=1e-5, epsilon=None, clients=10, clip_norm=0.25, quantile=0.5, largest_step=1e-3
)
SIZE = 5000


def released(
    updates: dict[str, np.ndarray], privacy: ClientPrivacy = PRIVACY, *, clip: float = 0.25, key: bytes = b"k"
):
    mean = PrivateMean(privacy, size=SIZE, clip_norm=clip, key=key * 32)
    for client, update in updates.items():
        mean.add(client, update)
    return mean.finish()


def some(seed: int, scale: float) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=SIZE)
    return (scale * values / np.linalg.norm(values)).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-9, 0.1, 0.25, 1.0, 1e30])
def test_one_client_moves_the_mean_by_at_most_clip_over_n_whatever_it_sends(scale):
    """With the same noise below, which a run never has for other updates."""
    others = {"a": some(1, 0.2), "b": some(2, 7.0)}
    apart = released({**others, "m": some(3, scale)})[0].astype(np.float64) - released(others)[0]
    assert np.linalg.norm(apart) <= 0.25 / 10 * (1 + 1e-4)
    if scale >= 0.25:
        assert np.linalg.norm(apart) > 0.95 * 0.25 / 10


def test_the_noise_has_the_stated_size_and_the_sum_a_fixed_denominator():
    few = released({"a": some(1, 0.2)})[0]
    expected = 1.5 * 0.25 / 10
    assert few.std() == pytest.approx(expected, rel=0.05)
    assert np.linalg.norm(few) / 0.25 == pytest.approx(PRIVACY.noise_over_clip(SIZE), rel=0.05)
    # One client of ten that are wanted counts a tenth, not all.
    quiet = released({"a": some(1, 0.2)}, replace(PRIVACY, noise_multiplier=1e-2))[0]
    assert quiet @ some(1, 1.0) == pytest.approx(0.02, rel=0.05)


def test_an_adaptive_clip_norm_follows_the_clients():
    adaptive = replace(PRIVACY, clip_norm=None, noise_multiplier=1e-3, clients=10)
    long = released({f"c{n}": some(n, 1.0) for n in range(10)}, adaptive, clip=0.25)
    short = released({f"c{n}": some(n, 0.1) for n in range(10)}, adaptive, clip=0.25)
    assert long[1] > 0.25 > short[1]
    assert released({"a": some(1, 1.0)})[1] == 0.25


KEY = bytes(32)
BIG = 70_000  # more than a block


def hostile() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    one = np.zeros(BIG, np.float32)
    one[3] = 1e30
    return {
        "far beyond": generator.normal(size=BIG).astype(np.float32) * np.float32(1e20),
        "just beyond": np.full(BIG, 1.0001 / math.sqrt(BIG), np.float32),
        "exactly the norm": np.full(BIG, 1 / math.sqrt(BIG), np.float32),
        "one number": one,
        "halves of a unit": np.full(BIG, 0.5 / 4096, np.float32),
        "subnormal": np.full(BIG, 1e-42, np.float32),
        "alternating": np.where(np.arange(BIG) % 2, 1e9, -1e9).astype(np.float32),
        "zero": np.zeros(BIG, np.float32),
    }


@pytest.mark.parametrize("radius", [1, 37, 4096, 1 << 17])
@pytest.mark.parametrize("name", hostile())
def test_whole_numbers_are_never_longer_than_the_radius(name, radius):
    integers = clipped_to_grid(hostile()[name], clip_norm=1.0, radius=radius, key=KEY).tolist()
    assert sum(map(operator.mul, integers, integers)) <= radius * radius


@pytest.mark.parametrize("size", [2000, 2_440_000])
def test_a_long_update_keeps_its_direction_and_nearly_the_whole_norm(size):
    values = np.random.default_rng(2).normal(size=size).astype(np.float32)
    grid = grid_for(size, 1.0)
    integers = clipped_to_grid(values, clip_norm=0.1, radius=grid.radius, key=KEY).astype(np.float64)
    along = integers @ values / np.linalg.norm(values)
    assert 0.98 * grid.radius < along <= grid.radius
    assert 4 * math.sqrt(size) <= grid.radius + 1 or grid.radius >= 4096


@pytest.mark.parametrize("clients", [1, 8, 100, 10_000])
@pytest.mark.parametrize("z", [0.3, 1.0, 30.0])
def test_updates_and_count_together_cost_what_was_asked_for(z, clients):
    privacy = ClientPrivacy(z, 1e-5, None, clients, None, 0.5, 1.0)
    count, updates = privacy.count_multiplier, privacy.update_multiplier
    assert 1 / updates**2 + 1 / count**2 == pytest.approx(1 / z**2, rel=1e-12)
    assert 1 / count**2 <= SHARE / z**2 * (1 + 1e-12)
    # The paper's n/20 on a sum of halves, where a client changes 1/2, is n/10 where it changes 1.
    assert count >= clients / 10
    assert privacy.first_clip(100) == pytest.approx(0.5 * 10)


def test_the_clip_norm_finds_the_quantile_of_norms_that_do_not_change():
    norms = np.exp(np.random.default_rng(0).normal(size=1000))
    clip, adaptive = 100.0, replace(PRIVACY, clip_norm=None, quantile=0.8)
    for _ in range(200):
        clip = adaptive.next_clip(clip, float(np.sign(clip - norms).sum()), norms.size)
    assert clip == pytest.approx(np.quantile(norms, 0.8), rel=0.05)


SHARED = ClientPrivacy(
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
    privacy = replace(SHARED, clients=clients, guaranteed=clients)
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
    whole, one, third, all_of_them = (SHARED.epsilon_after(5, colluding=count) for count in (0, 1, 22, 67))
    assert whole == pytest.approx(8.0, rel=1e-9)
    assert whole <= 8.0
    left = multiplier_for(8.0, 1e-5, 5) * math.sqrt(45 / 67)
    assert third == pytest.approx(epsilon_of(1e-5, 5, left), rel=0.01)
    assert third > epsilon_of(1e-5, 5, left)
    assert whole < one < third < all_of_them == math.inf


@pytest.mark.parametrize(("size", "noise", "why"), [(100, 1e-7, "no grid"), (2_445_312, 1e4, r"too much.*memory")])
def test_noise_that_no_grid_carries_or_whose_table_does_not_fit_into_memory_is_refused(size, noise, why):
    with pytest.raises(ConfigError, match=why):
        shares_for(size, noise, 3)
