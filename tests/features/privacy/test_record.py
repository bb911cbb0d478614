import math

import numpy as np
import pytest

from plait.errors import ConfigError
from plait.features.privacy.accountant import sampled_epsilon
from plait.features.privacy.noise import Keystream
from plait.features.privacy.record import RecordPrivacy

PLAIN = {"records": 200, "batch": 20, "steps": 10, "delta": 1e-5, "epsilon": 0.0, "noise": 1.0, "clip_norm": 1.0}


@pytest.mark.slow
def test_the_noise_is_that_with_which_all_steps_just_fit():
    privacy = RecordPrivacy.of(**{**PLAIN, "epsilon": 4.0, "noise": 0.0})
    assert privacy.epsilon_after(10) <= 4.0 < privacy.epsilon_after(11)
    assert privacy.epsilon_after(10) == sampled_epsilon(privacy.noise, 0.1, 10, 1e-5)
    assert privacy.mechanism.update_multiplier == privacy.noise
    assert privacy.mechanism.clients == 20


@pytest.mark.slow
def test_fewer_records_need_more_noise():
    noises = [
        RecordPrivacy.of(**{**PLAIN, "records": records, "epsilon": 4.0, "noise": 0.0}).noise
        for records in (15, 60, 500)
    ]
    assert noises == sorted(noises, reverse=True)


def test_a_client_with_less_than_a_batch_draws_all_and_divides_by_what_it_has():
    privacy = RecordPrivacy.of(**{**PLAIN, "records": 7})
    assert (privacy.batch, privacy.rate) == (7, 1.0)
    assert privacy.sample(Keystream(bytes(32))).tolist() == list(range(7))


def test_every_record_is_drawn_independently_with_the_same_probability():
    privacy = RecordPrivacy.of(**PLAIN)
    stream = Keystream(b"k" * 32)
    drawn = np.zeros((4000, 200), bool)
    for row in drawn:
        row[privacy.sample(stream)] = True
    # Of 200 frequencies with a deviation of sqrt(0.1 * 0.9 / 4000) none is 5 deviations off.
    assert np.abs(drawn.mean(axis=0) - 0.1).max() < 5 * math.sqrt(0.09 / 4000)
    # Sizes vary as those of independent draws do, and shuffled batches would not.
    assert drawn.sum(axis=1).var() == pytest.approx(200 * 0.09, rel=0.15)
    together = (drawn[:, ::2] & drawn[:, 1::2]).mean()
    assert together == pytest.approx(0.01, rel=0.05)


def test_a_delta_that_would_show_a_record_is_refused():
    with pytest.raises(ConfigError, match=r"dp-delta is 0.01 and this client has 200 records, expected less than"):
        RecordPrivacy.of(**{**PLAIN, "delta": 0.01})
