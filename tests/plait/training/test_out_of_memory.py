"""Memory that runs out outside a step's passes (which test_step_memory.py has): loading, the optimizer, serving."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from plait.adapters import Task
from plait.errors import MachineError, machine_fault
from plait.training.bases import LocatedBase
from plait.training.blueprint import Blueprint
from plait.training.device import Compute
from plait.training.learner import Learner, TrainingInputs
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.serving import Engine, Finish, Generation, Piece, Sampling
from plait.training.trainer import train_steps
from tests.plait.training.test_step_memory import SETTINGS, rows

CPU = Compute(torch.device("cpu"), torch.float32)


def ran_out(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_base_that_does_not_fit_is_one_line_wherever_it_is_loaded(
    tiny: LocatedBase, blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", ran_out)
    base = ResidentBase(tiny.directory, tiny.reference.fingerprint, CPU, seq_len=32)
    with pytest.raises(MachineError, match="does not fit into the memory of cpu"):
        base.carrying(blueprint.spec, blueprint.initial)
    with pytest.raises(MachineError, match="does not fit into the memory of cpu"):
        Engine(tiny.directory, CPU)


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


def test_a_request_without_memory_ends_alone_and_the_next_is_served(
    tiny: LocatedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tiny.directory, CPU)

    def ask() -> list[Piece]:
        pieces: list[Piece] = []
        engine.submit(Generation(engine.encode("import"), None, 2, pieces.append, Sampling(temperature=0)))
        while engine.busy:
            engine.step()
        return pieces

    with monkeypatch.context() as broken:
        broken.setattr(Engine, "_forward", ran_out)
        (failed,) = ask()
    assert failed.finish is Finish.ERROR
    assert "out of memory" in failed.error
    assert ask()[-1].finish in (Finish.LENGTH, Finish.STOP)
