import math
from dataclasses import replace

import numpy as np
import pytest

from plait.features.privacy.mechanism import ClientPrivacy, PrivateMean, multiplier_for

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
    apart = released({**others, "m": some(3, scale)}).mean.astype(np.float64) - released(others).mean
    assert np.linalg.norm(apart) <= 0.25 / 10 * (1 + 1e-4)
    if scale >= 0.25:
        assert np.linalg.norm(apart) > 0.95 * 0.25 / 10


def test_the_noise_has_the_stated_size_and_the_sum_a_fixed_denominator():
    few = released({"a": some(1, 0.2)}).mean
    expected = 1.5 * 0.25 / 10
    assert few.std() == pytest.approx(expected, rel=0.05)
    assert np.linalg.norm(few) / 0.25 == pytest.approx(PRIVACY.noise_over_clip(SIZE), rel=0.05)
    # One client of ten that are wanted counts a tenth, not all.
    quiet = released({"a": some(1, 0.2)}, replace(PRIVACY, noise_multiplier=1e-2)).mean
    assert quiet @ some(1, 1.0) == pytest.approx(0.02, rel=0.05)


def test_other_keys_draw_other_noise_and_the_same_key_the_same_bits():
    updates = {"a": some(1, 0.2), "b": some(2, 0.2)}
    same, other = released(updates).mean, released(updates, key=b"o").mean
    np.testing.assert_array_equal(released(updates).mean, same)
    assert abs(np.corrcoef(same, other)[0, 1]) < 0.1


def test_an_adaptive_clip_norm_pays_for_its_count():
    adaptive = replace(PRIVACY, clip_norm=None)
    assert adaptive.count_multiplier is not None
    assert adaptive.update_multiplier > PRIVACY.update_multiplier == 1.5
    assert 1 / adaptive.update_multiplier**2 + 1 / adaptive.count_multiplier**2 == pytest.approx(1 / 1.5**2)
    assert adaptive.first_clip(SIZE) == pytest.approx(0.5e-3 * math.sqrt(SIZE))


def test_an_adaptive_clip_norm_follows_the_clients():
    adaptive = replace(PRIVACY, clip_norm=None, noise_multiplier=1e-3, clients=10)
    long = released({f"c{n}": some(n, 1.0) for n in range(10)}, adaptive, clip=0.25)
    short = released({f"c{n}": some(n, 0.1) for n in range(10)}, adaptive, clip=0.25)
    assert long.clip_norm > 0.25 > short.clip_norm
    assert released({"a": some(1, 1.0)}).clip_norm == 0.25


def test_the_noise_is_as_small_as_the_budget_allows():
    z = multiplier_for(8.0, 1e-5, 5)
    privacy = replace(PRIVACY, noise_multiplier=z, epsilon=8.0)
    assert 5 <= privacy.most_charges < 5.001
    assert privacy.epsilon_after(5) == pytest.approx(8.0, rel=1e-6)
    assert privacy.epsilon_after(5) <= 8.0
