"""Memory that runs out outside a step's passes (which test_step_memory.py has): loading, the optimizer, text."""

from __future__ import annotations

import pytest
import torch

from plait.adapters import Task
from plait.errors import MachineError, machine_fault
from plait.training.blueprint import Blueprint
from plait.training.device import Compute
from plait.training.generate import Sampling, Speaker
from plait.training.learner import Learner, TrainingInputs
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.trainer import train_steps
from tests.plait.training.test_step_memory import SETTINGS, rows

CPU = Compute(torch.device("cpu"), torch.float32)


def ran_out(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.slow
def test_an_optimizer_without_memory_is_one_line_and_the_base_can_be_used_again(
    resident: ResidentBase, blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train() -> float:
        model = resident.carrying(blueprint.spec, blueprint.initial)
        done = train_steps(
            model,
            adapter_parameters(model, blueprint.spec.layout),
            TrainingInputs(rows(), SETTINGS, blueprint.initial.flat),
            task=Task.CAUSAL_LM,
            pad_token=0,
        )
        return done.report.loss

    before = train()
    with monkeypatch.context() as broken:
        broken.setattr(Learner, "step", ran_out)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            train()
    said = machine_fault(caught.value)
    assert said
    assert str(said).startswith("this GPU has too little memory (2.00 GiB more were asked for)")
    assert train() == before


@pytest.mark.slow
def test_a_text_without_memory_is_one_line_and_the_next_is_made(
    resident: ResidentBase, blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = Speaker(resident, blueprint.spec, blueprint.initial)

    def ask() -> list[str]:
        return speaker.answers([speaker.encode("import")], max_tokens=2, sampling=Sampling())

    with monkeypatch.context() as broken:
        broken.setattr(type(speaker.model.get_base_model()), "forward", ran_out)
        with pytest.raises(MachineError, match="1 texts side by side do not fit into memory: CUDA out of memory"):
            ask()
    assert len(ask()) == 1
