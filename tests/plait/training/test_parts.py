"""An adapter's values over several devices, and that its steps there are those of one device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from plait.adapters import Task
from plait.errors import ConfigError
from plait.rounds.local_model import Carried
from plait.rounds.moments import Moments
from plait.training.examples import Example
from plait.training.learner import Learner, LocalTraining, TrainingInputs
from plait.training.parts import Parts
from tests.plait.training.test_step_memory import SETTINGS

ONE, OTHER = torch.device("cpu"), torch.device("cpu", 0)
"""Two devices for torch, and one processor."""
SIZES = [3, 5, 2, 4]
OVER_TWO = [ONE, OTHER, ONE, OTHER]


def test_each_device_has_its_own_tensors_and_joined_they_are_what_was_split() -> None:
    parts, flat = Parts(SIZES, OVER_TWO), np.arange(14, dtype=np.float32)
    first, second = parts.split(flat)
    assert first.tolist() == [0, 1, 2, 8, 9]
    assert second.tolist() == [3, 4, 5, 6, 7, 10, 11, 12, 13]
    assert parts.join([first, second]).tolist() == flat.tolist()
    assert parts.in_order(parts.by_device("abcd")) == [*"abcd"]
    alone = Parts(SIZES, [ONE] * 4)
    assert alone.join(alone.split(flat)) is flat


def trained(devices: list[torch.device], **changed: object) -> LocalTraining:
    generator = np.random.default_rng(0)

    def drawn() -> np.ndarray:
        return generator.normal(size=14).astype(np.float32)

    tokens = np.arange(3, 35, dtype=np.int32)
    carried = Carried(
        moments=Moments(drawn() / 100, drawn() ** 2, (1, 1, 2, 1)), drift=drawn() / 100, slope=drawn(), movement=drawn()
    )
    settings = replace(SETTINGS, max_grad_norm=0.5, proximal=0.1, **changed)
    learner = Learner(
        TrainingInputs([Example(tokens, tokens)], settings, drawn(), carried),
        SIZES,
        [True, True, False, True],
        task=Task.CAUSAL_LM,
        devices=devices,
    )
    for _ in range(3):
        learner.step([torch.from_numpy(part) for part in np.split(drawn(), np.cumsum(SIZES)[:-1])], 2.0)
    learner.noised_step(drawn())
    return learner.finish(1.0)


@pytest.mark.parametrize("learning_rate", [0.0, 10.0], ids=["found", "shortened"])
def test_steps_over_two_devices_are_those_of_one(learning_rate: float) -> None:
    alone, placed = (trained(devices, learning_rate=learning_rate) for devices in ([ONE] * 4, OVER_TWO))
    np.testing.assert_allclose(placed.flat, alone.flat, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(placed.moments.mean, alone.moments.mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(placed.moments.square, alone.moments.square, rtol=1e-5, atol=1e-7)
    assert placed.moments.steps == alone.moments.steps == (5, 5, 2, 5)
    assert placed.report.shortened == alone.report.shortened
    for name in ("learning_rate", "slope"):
        assert getattr(placed.report, name) == pytest.approx(getattr(alone.report, name), rel=1e-5)


def test_moments_of_another_adapter_are_refused_before_they_are_divided() -> None:
    inputs = TrainingInputs([], SETTINGS, np.zeros(14, np.float32), Carried(moments=Moments.none(13, 4)))
    with pytest.raises(ConfigError, match="of 13 values in 4 tensors, expected 14 in 4"):
        Learner(inputs, SIZES, [True] * 4, task=Task.CAUSAL_LM, devices=OVER_TWO)
