import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from simulations.bench.baselines import BASELINES

LAYOUT = Layout.of({"a": (64, 20), "b": (0, 3), "c": (37,), "d": (5,)})
VALUES = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
VALUES[-5:] = 0
DELTA = AdapterState(LAYOUT, VALUES)
BITS = {"top-k": 1.0, "int8": 8.0, "nf4": 4.5, "sign": 1.0}


@pytest.mark.parametrize("name", BASELINES)
def test_bytes_are_what_the_method_takes(name):
    scales_and_rounding = 4 * len(LAYOUT.slots) + 40
    assert 0 <= len(BASELINES[name].pack(DELTA)) - BITS[name] * LAYOUT.size / 8 + 10 <= scales_and_rounding


@pytest.mark.parametrize(("name", "worst"), [("top-k", 0.95), ("int8", 2e-4), ("nf4", 0.012), ("sign", 0.4)])
def test_what_arrives_is_like_what_was_sent(name, worst):
    arrived = BASELINES[name].unpack(BASELINES[name].pack(DELTA), LAYOUT)
    assert arrived.dtype == np.float32
    assert 0 < np.sum((arrived - VALUES) ** 2) / np.sum(VALUES**2) < worst


def test_top_k_keeps_the_largest_exactly():
    arrived = BASELINES["top-k"].unpack(BASELINES["top-k"].pack(DELTA), LAYOUT)
    kept = arrived != 0
    np.testing.assert_array_equal(arrived[kept], VALUES[kept])
    assert np.abs(VALUES[kept]).min() >= np.abs(VALUES[~kept]).max()


def test_int8_is_off_by_half_a_step_at_most():
    arrived = BASELINES["int8"].unpack(BASELINES["int8"].pack(DELTA), LAYOUT)
    assert np.abs(arrived - VALUES).max() <= np.abs(VALUES).max() / 127 / 2 * 1.0001


def test_sign_keeps_every_sign_and_the_mean_magnitude_of_each_tensor():
    arrived = AdapterState(LAYOUT, BASELINES["sign"].unpack(BASELINES["sign"].pack(DELTA), LAYOUT))
    np.testing.assert_array_equal(np.sign(arrived["a"]), np.sign(DELTA["a"]))
    np.testing.assert_allclose(np.abs(arrived["c"]), np.abs(DELTA["c"]).mean(), rtol=1e-6)
