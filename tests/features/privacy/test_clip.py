import math
import operator

import numpy as np
import pytest

from plait.features.privacy.mechanism import clipped_to_grid, grid_for

KEY = bytes(32)
SIZE = 70_000  # more than a block


def hostile() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    one = np.zeros(SIZE, np.float32)
    one[3] = 1e30
    return {
        "far beyond": generator.normal(size=SIZE).astype(np.float32) * np.float32(1e20),
        "just beyond": np.full(SIZE, 1.0001 / math.sqrt(SIZE), np.float32),
        "exactly the norm": np.full(SIZE, 1 / math.sqrt(SIZE), np.float32),
        "one number": one,
        "halves of a unit": np.full(SIZE, 0.5 / 4096, np.float32),
        "subnormal": np.full(SIZE, 1e-42, np.float32),
        "alternating": np.where(np.arange(SIZE) % 2, 1e9, -1e9).astype(np.float32),
        "zero": np.zeros(SIZE, np.float32),
    }


@pytest.mark.parametrize("radius", [1, 37, 4096, 1 << 17])
@pytest.mark.parametrize("name", hostile())
def test_whole_numbers_are_never_longer_than_the_radius(name, radius):
    integers = clipped_to_grid(hostile()[name], clip_norm=1.0, radius=radius, key=KEY).tolist()
    assert sum(map(operator.mul, integers, integers)) <= radius * radius


def test_a_short_update_is_rounded_without_bias_and_not_shrunk():
    values = np.random.default_rng(1).normal(size=2000).astype(np.float32)
    values *= np.float32(0.5 / np.linalg.norm(values))
    grid = grid_for(2000, 1.0)
    rounded = [
        clipped_to_grid(values, clip_norm=1.0, radius=grid.radius, key=number.to_bytes(32, "little"))
        for number in range(400)
    ]
    off = np.mean(rounded, axis=0) * grid.unit(1.0) - values
    assert np.abs(off).max() < 6 * grid.unit(1.0) / 2 / math.sqrt(400)
    assert np.abs(rounded[0] * grid.unit(1.0) - values).max() <= grid.unit(1.0)


@pytest.mark.parametrize("size", [2000, 2_440_000])
def test_a_long_update_keeps_its_direction_and_nearly_the_whole_norm(size):
    values = np.random.default_rng(2).normal(size=size).astype(np.float32)
    grid = grid_for(size, 1.0)
    integers = clipped_to_grid(values, clip_norm=0.1, radius=grid.radius, key=KEY).astype(np.float64)
    along = integers @ values / np.linalg.norm(values)
    assert 0.98 * grid.radius < along <= grid.radius
    assert 4 * math.sqrt(size) <= grid.radius + 1 or grid.radius >= 4096


def test_the_noise_s_table_stays_small_however_large_the_noise():
    for multiplier in (0.1, 1.0, 300.0, 1e4):
        grid = grid_for(1 << 24, multiplier)
        assert grid.sigma <= 1 << 17
        assert grid.radius >= 1
        assert grid.sigma / grid.radius == pytest.approx(multiplier, rel=1e-12)
