import math

import numpy as np
import pytest

from plait.features.privacy.mechanism import SHARE, ClientPrivacy, next_clip


@pytest.mark.parametrize("clients", [1, 8, 100, 10_000])
@pytest.mark.parametrize("z", [0.3, 1.0, 30.0])
def test_updates_and_count_together_cost_what_was_asked_for(z, clients):
    privacy = ClientPrivacy(z, 1e-5, None, clients, None, 0.5, 1.0)
    count, updates = privacy.count_multiplier, privacy.update_multiplier
    assert count is not None
    assert 1 / updates**2 + 1 / count**2 == pytest.approx(1 / z**2, rel=1e-12)
    assert 1 / count**2 <= SHARE / z**2 * (1 + 1e-12)
    # The paper's n/20 on a sum of halves, where a client changes 1/2, is n/10 where it changes 1.
    assert count >= clients / 10


def test_the_clip_norm_finds_the_quantile_of_norms_that_do_not_change():
    norms = np.exp(np.random.default_rng(0).normal(size=1000))
    clip = 100.0
    for _ in range(200):
        clip = next_clip(clip, float((norms <= clip).mean()), 0.8)
    assert clip == pytest.approx(np.quantile(norms, 0.8), rel=0.05)


def test_noise_cannot_throw_the_clip_norm_far():
    for fraction in (-1e6, 1e6):
        assert 0.5 < next_clip(1.0, fraction, 0.5) < 2
    assert next_clip(3.0, 0.5, 0.5) == 3.0
    assert math.isfinite(next_clip(1e300, 0.0, 0.9))
