from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from plait.adapters import AdapterState, Layout
from plait.rounds.error_feedback import Residual, encode_with_gain, feedback_gain, residual_from_bytes
from plait.wire.codec import Codec
from plait.wire.codecs import codec_for
from plait.wire.envelope import EncodedDelta, encode_delta

LAYOUT = Layout.of({"A": (2, 3), "B": (4,)})
RUN = b"r" * 16


def state(value: float) -> AdapterState:
    return AdapterState(LAYOUT, np.full(LAYOUT.size, value, np.float32))


def test_a_round_starts_from_what_the_round_before_left() -> None:
    residual = Residual.none(RUN, LAYOUT).settled(1, state(1)).settled(2, state(2))
    assert residual.owed_in(3).flat[0] == 2


def test_a_repeated_round_starts_from_where_it_started_the_first_time() -> None:
    once = Residual.none(RUN, LAYOUT).settled(1, state(1)).settled(4, state(4))
    assert once.owed_in(4).flat[0] == 1
    again = once.settled(4, state(5))
    assert again.owed_in(4).flat[0] == 1
    assert again.owed_in(5).flat[0] == 5


def test_it_survives_being_written_down() -> None:
    residual = Residual.none(RUN, LAYOUT).settled(3, state(0.25)).settled(7, state(-1))
    kept = residual_from_bytes(residual.to_bytes(), RUN, LAYOUT)
    assert (kept.before_round, kept.after_round) == (3, 7)
    assert kept.owed_in(7).digest() == residual.owed_in(7).digest()
    assert kept.owed_in(8).digest() == residual.owed_in(8).digest()


@pytest.mark.parametrize("damage", [b"", b"x" * 21, b"x"])
def test_a_damaged_memory_owes_nothing(damage: bytes) -> None:
    whole = Residual.none(RUN, LAYOUT).settled(1, state(1)).to_bytes()
    for data in (damage, whole[:-1], whole + b"x", None):
        assert residual_from_bytes(data, RUN, LAYOUT).owed_in(9).flat.any() == np.False_


def test_another_run_or_another_adapter_owes_nothing() -> None:
    data = Residual.none(RUN, LAYOUT).settled(1, state(1)).to_bytes()
    assert not residual_from_bytes(data, b"s" * 16, LAYOUT).owed_in(2).flat.any()
    assert not residual_from_bytes(data, RUN, Layout.of({"A": (2, 2)})).owed_in(2).flat.any()


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
