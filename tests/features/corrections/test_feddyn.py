"""FedDyn against algorithm 1 of its paper, in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.aggregation import Outcome
from plait.aggregation.contract import OPTIMIZER_CHECKS
from plait.aggregation.server_step import optimizer_for
from plait.errors import ConfigError
from plait.features.corrections.feddyn import FedDyn
from plait.features.corrections.server_step import FedDynStep
from plait.own_code import checked
from plait.rounds.client_state import Kept
from plait.rounds.hook import Outgoing
from plait.rounds.local_model import Carried, Trained, TrainJob
from plait.wire.settings import Settings

LAYOUT = Layout.of({"w": (5,)})
ALPHA = 0.3
SETTINGS = Settings(
    local_steps=1, batch_size=1, gradient_accumulation_steps=1, seq_len=8, learning_rate=1.0, weight_decay=0.0,
    max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=1, seed=0, feddyn=ALPHA,
)  # fmt: skip


def state(values):
    return AdapterState(LAYOUT, np.asarray(values, np.float32))


def test_quadratic_clients_reach_the_optimum_of_their_mean_as_the_paper_proves():
    """Client k has loss |H_k^(1/2) (w - c_k)|^2 / 2; its regularised problem is solved exactly, as in the paper."""
    generator = np.random.default_rng(1)
    curvatures, centres = generator.uniform(0.5, 3, (3, 5)), generator.normal(size=(3, 5))
    optimum = (curvatures * centres).sum(axis=0) / curvatures.sum(axis=0)
    hook, server = FedDyn(), FedDynStep()
    kept, memory, master = [Kept()] * 3, {}, np.zeros(5)
    for _ in range(200):
        moved = []
        for k in range(3):
            job = TrainJob(None, None, SETTINGS, state(master), state(master), carried=Carried())
            job = hook.before(job, kept[k])
            slope = np.zeros(5) if job.carried.slope is None else job.carried.slope
            # grad L(w) - h + alpha (w - w0) = 0
            local = (curvatures[k] * centres[k] + slope + ALPHA * master) / (curvatures[k] + ALPHA)
            trained = Trained(state(local), 0.0, 1, 0.0)
            _, kept[k] = hook.after(job, kept[k], Outgoing(trained, state(local - master)))
            gradient = curvatures[k] * (local - centres[k])
            np.testing.assert_allclose(kept[k].arrays["slope"], gradient, atol=1e-4)
            moved.append(local - master)
        step, memory = server.adjust(Outcome(state(np.mean(moved, axis=0))), memory, None)
        master = master + step.flat
    np.testing.assert_allclose(master, optimum, atol=1e-4)
    assert hook.applies(SETTINGS)
    assert not hook.applies(replace(SETTINGS, feddyn=0.0))


def test_the_server_s_step_is_found_by_its_name_and_keeps_the_contract_of_server_optimizers():
    found = optimizer_for("feddyn:share=0.5")
    assert found == FedDynStep(share=0.5)
    assert [verdict for verdict in checked(found, OPTIMIZER_CHECKS) if not verdict.holds] == []
    with pytest.raises(ConfigError, match="did you mean 'feddyn'"):
        optimizer_for("feddin")
