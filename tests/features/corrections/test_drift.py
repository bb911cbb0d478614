import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.features.corrections.drift import Drift
from plait.rounds.client_state import Kept

LAYOUT = Layout.of({"w": (6,)})
RATE, STEPS, CLIENTS = 0.05, 4, 3


def state(flat):
    return AdapterState(LAYOUT, flat.astype(np.float32))


def test_with_sgd_it_is_scaffold_of_the_paper():
    """Option II with all clients taking part, on quadratic losses with optima of their own (algorithm 1)."""
    generator = np.random.default_rng(0)
    optima = generator.normal(size=(CLIENTS, LAYOUT.size))
    curvatures = generator.uniform(0.5, 2.0, size=(CLIENTS, LAYOUT.size))
    x = mine = np.zeros(LAYOUT.size)
    c_i, drifts = np.zeros((CLIENTS, LAYOUT.size)), [None] * CLIENTS
    for round_number in range(1, 6):
        c, ys, ours = c_i.mean(axis=0), [], []
        for k in range(CLIENTS):
            y, d = x.copy(), mine.copy()
            kept = drifts[k]
            correction = np.zeros(LAYOUT.size) if kept is None else kept.correction(state(mine), rounds=1)
            for _ in range(STEPS):
                y -= RATE * (curvatures[k] * (y - optima[k]) - c_i[k] + c)
                d += -RATE * curvatures[k] * (d - optima[k]) + correction / STEPS
            ys.append(y)
            ours.append(d)
            drifts[k] = Drift(mine.astype(np.float32), (correction - (d - mine)).astype(np.float32))
        for k in range(CLIENTS):
            c_i[k] = c_i[k] - c + (x - ys[k]) / (STEPS * RATE)
        x, mine = np.mean(ys, axis=0), np.mean(ours, axis=0)
        np.testing.assert_allclose(mine, x, atol=1e-5, err_msg=f"round {round_number}")


def test_rounds_that_a_client_missed_count_on_average():
    drift = Drift(np.zeros(6, np.float32), np.full(6, 0.5, np.float32))
    np.testing.assert_allclose(drift.correction(state(np.full(6, 3.0)), rounds=3), np.full(6, 1.5))


def test_it_survives_being_written_down():
    drift = Drift(np.arange(6, dtype=np.float32), -np.arange(6, dtype=np.float32))
    kept = Drift.of(drift.kept(), 6)
    np.testing.assert_array_equal(kept.received, drift.received)
    np.testing.assert_array_equal(kept.rest, drift.rest)


@pytest.mark.parametrize("kept", [Kept(), Drift(np.zeros(5, np.float32), np.zeros(5, np.float32)).kept()])
def test_what_is_lost_or_of_another_adapter_is_none(kept):
    assert Drift.of(kept, 6) is None
