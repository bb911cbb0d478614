"""A step that does not fit into memory: what gives way, in which order, and that the update stays the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from plait.adapters import AdapterState, AdapterTask
from plait.errors import MachineError
from plait.training import losses
from plait.training.blueprint import AdapterTemplate
from plait.training.examples import Example
from plait.training.fused.language_model import FusedLanguageModel
from plait.training.generate import Sampling, TextGenerator
from plait.training.learner import TrainingInputs
from plait.training.losses import ALL_BLOCKS, StepMemory
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.trainer import measure_losses, train_steps
from plait.wire.settings import Settings

SETTINGS = Settings(
    local_steps=2, batch_size=4, gradient_accumulation_steps=1, seq_len=24, learning_rate=1e-2, weight_decay=0.0,
    max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=4, seed=3,
)  # fmt: skip


def rows() -> list[Example]:
    generator = np.random.default_rng(0)
    tokens = [generator.integers(0, 200, length).astype(np.int32) for length in (24, 9, 17, 24, 12, 20)]
    return [Example(row, row.copy()) for row in tokens]


@pytest.fixture
def train(resident: ResidentBase, blueprint: AdapterTemplate) -> Callable[[StepMemory], np.ndarray]:
    """Trains the same adapter; gives its values."""

    def run(memory: StepMemory) -> np.ndarray:
        spec = blueprint.spec
        model = resident.carrying(spec, AdapterState(spec.layout, blueprint.initial.flat))
        parameters = adapter_parameters(model, spec.layout)
        start = blueprint.initial.flat
        return train_steps(
            model,
            parameters,
            TrainingInputs(rows(), SETTINGS, start),
            task=AdapterTask.CAUSAL_LM,
            pad_token=0,
            memory=memory,
        ).flat

    return run


@pytest.mark.parametrize("blocks", [1, ALL_BLOCKS])
def test_blocks_computed_twice_give_the_same_bits(train: Callable[[StepMemory], np.ndarray], blocks: int) -> None:
    assert train(StepMemory(recomputed=blocks)).tobytes() == train(StepMemory()).tobytes()


def test_a_batch_in_parts_gives_the_same_update(train: Callable[[StepMemory], np.ndarray]) -> None:
    np.testing.assert_allclose(train(StepMemory(cuts=4)), train(StepMemory()), rtol=2e-3, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("room", "cuts"), [(2, 2), (1, 4)])
def test_what_does_not_fit_gives_way_and_is_remembered(
    train: Callable[[StepMemory], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    room: int,
    cuts: int,
) -> None:
    plain = train(StepMemory())
    honest = FusedLanguageModel.token_losses
    attempts: list[tuple[int, int]] = []

    def short_of_memory(self: FusedLanguageModel, batch: list[Example], **how: int) -> object:
        attempts.append((len(batch), how.get("recomputed", 0)))
        if len(batch) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(self, batch, **how)

    monkeypatch.setattr(FusedLanguageModel, "token_losses", short_of_memory)
    memory = StepMemory()
    found = train(memory)
    assert attempts[0] == (4, 0)
    assert attempts[1][1] > 0, "the blocks are computed twice before a batch is cut"
    assert memory == StepMemory(recomputed=ALL_BLOCKS, cuts=cuts)
    np.testing.assert_allclose(found, plain, rtol=2e-3, atol=2e-5)
    before = len(attempts)
    train(memory)
    assert all(size <= room for size, _ in attempts[before:]), "the next training begins with what was learnt"


def test_out_of_memory_in_the_backward_pass_leaves_no_part_of_a_gradient(
    train: Callable[[StepMemory], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(StepMemory())
    honest, calls = torch.Tensor.backward, 0

    def fails_once_half_way(self: torch.Tensor, *args: object, **options: object) -> None:
        nonlocal calls
        honest(self, *args, **options)
        calls += 1
        if calls == 1:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch.Tensor, "backward", fails_once_half_way)
    assert train(StepMemory()).tobytes() == plain.tobytes()


def test_one_sequence_that_does_not_fit_is_one_line(
    train: Callable[[StepMemory], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_args: object, **_how: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FusedLanguageModel, "token_losses", never)
    with pytest.raises(MachineError, match=r"24 tokens a sequence does not fit into the memory of cpu.*--seq-len"):
        train(StepMemory())


def test_an_evaluation_gives_way_too(
    resident: ResidentBase, blueprint: AdapterTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = resident.carrying(blueprint.spec, blueprint.initial)
    whole = measure_losses(model, rows(), task=AdapterTask.CAUSAL_LM, pad_token=0, batch_size=6)
    honest = losses.BatchLoss.by_sequence

    def one_at_most(self: losses.BatchLoss, batch: list[Example]) -> list[float]:
        if len(batch) > 1:
            raise MemoryError
        return honest(self, batch)

    monkeypatch.setattr(losses.BatchLoss, "by_sequence", one_at_most)
    parts = measure_losses(model, rows(), task=AdapterTask.CAUSAL_LM, pad_token=0, batch_size=6)
    assert replace(parts, losses=()) == replace(whole, losses=())
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)


@pytest.mark.slow
def test_a_text_that_does_not_fit_is_one_line_and_the_next_is_made(
    resident: ResidentBase, blueprint: AdapterTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = TextGenerator(resident, blueprint.spec, blueprint.initial)

    def ask() -> list[str]:
        return speaker.answers([speaker.encode("import")], max_tokens=2, sampling=Sampling())

    with monkeypatch.context() as broken:
        broken.setattr(type(speaker.model.get_base_model()), "forward", Mock(side_effect=torch.OutOfMemoryError))
        with pytest.raises(MachineError, match="1 texts side by side do not fit into memory"):
            ask()
    assert len(ask()) == 1
