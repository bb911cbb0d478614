from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.aggregation import BOTH_SIDES
from plait.rounds.hooks import ErrorFeedback, Outgoing, Residual
from plait.rounds.local_model import Trained, TrainJob
from plait.wire.codecs import codec_for
from plait.wire.envelope import encode_delta

LAYOUT = Layout.of({"A": (2, 3), "B": (4,)})


def values(*numbers: float) -> AdapterState:
    return AdapterState(LAYOUT, np.linspace(*numbers, LAYOUT.size, dtype=np.float32))


@pytest.mark.parametrize(
    ("wire", "left"),
    [
        pytest.param("2", 0.25, marks=pytest.mark.slow),
        ("1", 0.25),
    ],
)
def test_under_a_steady_drift_a_gain_leaves_hardly_a_lag_and_nothing_is_lost(wire: str, left: float) -> None:
    layout, codec, rounds = Layout.of({"w": (1 << 11,)}), codec_for(wire), 8
    drift = np.random.default_rng(0).normal(size=layout.size).astype(np.float32)
    movement = AdapterState(layout, drift)

    def lags(feed: Callable[[Residual], AdapterState]) -> tuple[float, float]:
        """Rounds that the receiver lags behind in the end, and the residual's norm in those of a round's movement."""
        residual, arrived = Residual(AdapterState.zeros(layout)), np.zeros(layout.size)
        for _ in range(rounds):
            residual = residual.plus(movement)
            sent = encode_delta(feed(residual), codec).delta
            residual = residual.after_sending(sent)
            arrived += sent.flat
        pending = residual.pending.flat.astype(np.float64)
        np.testing.assert_allclose(arrived + pending, rounds * drift, atol=1e-3)
        return float(pending @ drift / (drift @ drift)), float(np.linalg.norm(pending) / np.linalg.norm(drift))

    plain, _ = lags(lambda residual: residual.pending)
    lag, norm = lags(lambda residual: residual.to_encode(codec))
    assert abs(lag) < left * plain
    assert norm < 6  # it has not run away


@pytest.mark.parametrize(("kept_in", "counts"), [(4, True), (3, False), (0, False)])
def test_a_client_that_was_away_for_a_round_begins_without_a_residual(kept_in: int, counts: bool) -> None:
    settings = SimpleNamespace(round=5, codec=codec_for("fp32"), trained=BOTH_SIDES)
    job = cast("TrainJob", SimpleNamespace(settings=settings, grid=None))
    owed, delta = values(1, 2), values(0, 1)
    outgoing = Outgoing(cast("Trained", None), delta)
    sent, _ = ErrorFeedback().after(job, replace(Residual(owed).kept(), round=kept_in), outgoing)
    assert sent.encoded is not None
    wanted = delta.flat + owed.flat if counts else delta.flat
    np.testing.assert_array_equal(sent.encoded.delta.flat, wanted)
