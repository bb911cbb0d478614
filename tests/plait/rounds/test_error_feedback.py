from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from plait.adapters import AdapterState, Layout
from plait.rounds.error_feedback import encode_with_gain, feedback_gain, owed, owed_bytes
from plait.wire.codec import Codec
from plait.wire.codecs import codec_for
from plait.wire.envelope import EncodedDelta, encode_delta

LAYOUT = Layout.of({"A": (2, 3), "B": (4,)})


def test_what_is_owed_survives_being_written_down() -> None:
    left = AdapterState(LAYOUT, np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))
    assert owed(owed_bytes(left), LAYOUT).digest() == left.digest()
    assert owed_bytes(AdapterState.zeros(LAYOUT)) == b""


@pytest.mark.parametrize("data", [b"", b"x", b"x" * (4 * LAYOUT.size + 4)])
def test_a_damaged_memory_owes_nothing(data: bytes) -> None:
    assert not owed(data, LAYOUT).flat.any()


@pytest.mark.parametrize("distortion", [0.01, 0.25, 0.5, 0.76, 0.9])
def test_the_gain_shortens_the_lag_and_the_feedback_stays_stable(distortion: float) -> None:
    gain = feedback_gain(distortion)
    kept = 1 - gain * (1 - distortion)
    noise_factor = kept**2 + gain**2 * distortion * (1 - distortion)
    assert 1 <= gain <= 1 / (1 - distortion)
    assert noise_factor < 1
    lag, lag_without = kept / (1 - kept), distortion / (1 - distortion)
    assert lag < 0.7 * lag_without or gain == 1
    if distortion <= 0.4:
        assert lag == pytest.approx(0, abs=1e-9)


def test_an_exact_codec_has_no_gain() -> None:
    assert feedback_gain(0.0) == 1


@pytest.mark.parametrize("wire", ["2", "1", "0.5"])
def test_under_a_steady_drift_the_gain_halves_the_lag_at_least_and_nothing_is_lost(wire: str) -> None:
    layout = Layout.of({"w": (2048,)})
    drift = np.random.default_rng(0).normal(size=layout.size).astype(np.float32)

    def owed_after(rounds: int, encode: Callable[[AdapterState, Codec], EncodedDelta]) -> NDArray[np.float64]:
        owed, arrived = np.zeros(layout.size), np.zeros(layout.size)
        for _ in range(rounds):
            wanted = AdapterState(layout, (drift + owed).astype(np.float32))
            sent = encode(wanted, codec_for(wire)).delta
            owed = wanted.flat - sent.flat.astype(np.float64)
            arrived += sent.flat
        np.testing.assert_allclose(arrived + owed, rounds * drift, atol=1e-3)
        return owed

    plain, gained = owed_after(8, encode_delta), owed_after(8, encode_with_gain)
    assert abs(gained @ drift) < 0.5 * (plain @ drift)
    assert np.linalg.norm(gained) < 3 * np.linalg.norm(drift)
