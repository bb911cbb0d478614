"""Training in float16: gradients that would vanish do not, and none that overflowed is ever stepped along."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from plait.adapters import AdapterState, AdapterTask
from plait.errors import MachineError
from plait.training import trainer
from plait.training.blueprint import AdapterTemplate
from plait.training.device import Compute
from plait.training.examples import Example
from plait.training.learner import LocalTraining, TrainingInputs
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.trainer import LossScale, train_steps
from plait.wire.settings import Settings
from tests.plait.training.test_step_memory import rows

SETTINGS = Settings(
    local_steps=3, batch_size=2, gradient_accumulation_steps=2, seq_len=24, learning_rate=1e-3, weight_decay=0.0,
    max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=4, seed=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def halves(tiny) -> ResidentBase:
    compute = Compute(torch.device("cpu"), torch.float16)
    return ResidentBase(tiny.directory, tiny.reference.fingerprint, compute, seq_len=32)


def train(base: ResidentBase, made: AdapterTemplate, settings: Settings = SETTINGS) -> LocalTraining:
    model = base.carrying(made.spec, AdapterState(made.spec.layout, made.initial.flat))
    parameters = adapter_parameters(model, made.spec.layout)
    inputs = TrainingInputs(rows(), settings, made.initial.flat)
    return train_steps(model, parameters, inputs, task=AdapterTask.CAUSAL_LM, pad_token=0)


def moved(done: LocalTraining, made: AdapterTemplate) -> np.ndarray:
    return done.flat - made.initial.flat


@pytest.mark.slow
def test_in_float16_the_update_is_that_of_float32_and_small_gradients_count(
    resident: ResidentBase, halves: ResidentBase, blueprint: AdapterTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = replace(SETTINGS, local_steps=1, batch_size=6, gradient_accumulation_steps=1)
    expected = moved(train(resident, blueprint, long), blueprint)
    scaled = moved(train(halves, blueprint, long), blueprint)
    monkeypatch.setattr(trainer, "FIRST_SCALE", 2.0**-8)
    vanished = moved(train(halves, blueprint, long), blueprint)
    error = [np.linalg.norm(each - expected) / np.linalg.norm(expected) for each in (scaled, vanished)]
    assert error[0] < 0.1
    assert error[1] > 2 * error[0], "the same losses, much smaller, lose their gradients"


@pytest.mark.slow
def test_an_overflow_is_tried_again_with_half_the_factor_and_never_stepped_along(
    halves: ResidentBase, blueprint: AdapterTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(halves, blueprint)
    monkeypatch.setattr(trainer, "FIRST_SCALE", 2.0**25)
    factors: list[float] = []
    honest = LossScale.applied

    def seen(self: LossScale, loss: torch.Tensor) -> torch.Tensor:
        factors.append(self.factor)
        return honest(self, loss)

    monkeypatch.setattr(LossScale, "applied", seen)
    done = train(halves, blueprint)
    assert factors[0] == 2.0**25 > factors[-1]
    assert len(set(factors[-4:])) == 1, "what was found is kept for the next steps"
    assert done.moments.steps == plain.moments.steps, "no step is lost"
    assert np.isfinite(done.flat).all()
    close = np.linalg.norm(done.flat - plain.flat) / np.linalg.norm(moved(plain, blueprint))
    assert close < 0.1


@pytest.mark.slow
def test_a_step_whose_losses_overflow_is_left_out_and_a_training_of_such_steps_is_one_line(
    halves: ResidentBase, blueprint: AdapterTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = trainer.BatchLoss.__call__, 0

    def overflowing(self: trainer.BatchLoss, batch: list[Example]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return honest(self, batch) * (torch.inf if calls in bad else 1)

    monkeypatch.setattr(trainer.BatchLoss, "__call__", overflowing)
    bad = range(3, 5)  # the two micro-batches of the second step
    done = train(halves, blueprint)
    assert np.isfinite(done.flat).all()
    assert set(done.moments.steps) == {2}
    assert calls == 6, "a smaller factor would not help"
    bad = range(100)
    with pytest.raises(MachineError, match=r"all 3 steps overflowed float16.*--dtype float32"):
        train(halves, blueprint)
