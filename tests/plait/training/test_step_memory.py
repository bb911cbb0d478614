"""A step that does not fit into memory: what gives way, in which order, and that the update stays the same."""

from collections.abc import Callable
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from plait.errors import MachineError
from plait.rounds.local_model import Trained
from plait.training import losses, trainer
from plait.training.blueprint import AdapterTemplate
from plait.training.examples import Example
from plait.training.fused.language_model import FusedLanguageModel
from plait.training.generate import Sampling, TextGenerator
from plait.training.losses import ALL_BLOCKS, StepMemory
from plait.training.resident import ResidentBase
from plait.training.trainer import LossScale, measure_losses
from tests.plait.training.conftest import SETTINGS as SMALL
from tests.plait.training.conftest import held, train_on

SETTINGS = replace(SMALL, local_steps=2, batch_size=4, seq_len=24, seed=3)


def rows() -> list[Example]:
    generator = np.random.default_rng(0)
    tokens = [generator.integers(0, 200, length).astype(np.int32) for length in (24, 9, 17, 24, 12, 20)]
    return [Example(row, row.copy()) for row in tokens]


@pytest.fixture
def train(resident: ResidentBase, blueprint: AdapterTemplate) -> Callable[[StepMemory], np.ndarray]:
    """Trains the same adapter; gives its values."""

    return lambda memory: train_on(resident, blueprint, rows(), SETTINGS, memory=memory).state.flat


@pytest.mark.parametrize("blocks", [1, ALL_BLOCKS])
def test_blocks_computed_twice_give_the_same_bits(train, blocks):
    assert train(StepMemory(recomputed=blocks)).tobytes() == train(StepMemory()).tobytes()


def test_a_batch_in_parts_gives_the_same_update(train):
    np.testing.assert_allclose(train(StepMemory(cuts=4)), train(StepMemory()), rtol=2e-3, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("room", "cuts"), [(2, 2), (1, 4)])
def test_what_does_not_fit_gives_way_and_is_remembered(train, monkeypatch, room, cuts):
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


def test_out_of_memory_in_the_backward_pass_leaves_no_part_of_a_gradient(train, monkeypatch):
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


def test_one_sequence_that_does_not_fit_is_one_line(train, monkeypatch):
    def never(*_args: object, **_how: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FusedLanguageModel, "token_losses", never)
    with pytest.raises(MachineError, match=r"24 tokens a sequence does not fit into the memory of cpu.*--seq-len"):
        train(StepMemory())


def test_an_evaluation_gives_way_too(resident, blueprint, monkeypatch):
    model = resident.with_adapter(blueprint.spec, blueprint.initial)
    whole = measure_losses(model, rows(), batch_size=6)
    honest = losses.BatchLoss.by_sequence

    def one_at_most(self: losses.BatchLoss, batch: list[Example]) -> list[float]:
        if len(batch) > 1:
            raise MemoryError
        return honest(self, batch)

    monkeypatch.setattr(losses.BatchLoss, "by_sequence", one_at_most)
    parts = measure_losses(model, rows(), batch_size=6)
    assert replace(parts, losses=()) == replace(whole, losses=())
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)


@pytest.mark.slow
def test_a_text_that_does_not_fit_is_one_line_and_the_next_is_made(resident, blueprint, monkeypatch):
    speaker = TextGenerator(resident, blueprint.spec, blueprint.initial)

    def ask() -> list[str]:
        return speaker.answers([speaker.encode("import")], max_tokens=2, sampling=Sampling())

    with monkeypatch.context() as broken:
        broken.setattr(type(speaker.model.get_base_model()), "forward", Mock(side_effect=torch.OutOfMemoryError))
        with pytest.raises(MachineError, match="1 texts side by side do not fit into memory"):
            ask()
    assert len(ask()) == 1


# Training in float16: small gradients do not vanish, and none that overflowed is ever stepped along.
HALVES = replace(SETTINGS, local_steps=3, batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-3)


@pytest.fixture(scope="module")
def halves(tiny) -> ResidentBase:
    return held(tiny, torch.float16)


def movement(done: Trained, made: AdapterTemplate) -> np.ndarray:
    return done.state.flat - made.initial.flat


@pytest.mark.slow
def test_in_float16_the_update_is_that_of_float32_and_small_gradients_count(resident, halves, blueprint, monkeypatch):
    long = replace(HALVES, local_steps=1, batch_size=6, gradient_accumulation_steps=1)
    expected = movement(train_on(resident, blueprint, rows(), long), blueprint)
    scaled = movement(train_on(halves, blueprint, rows(), long), blueprint)
    monkeypatch.setattr(trainer, "FIRST_SCALE", 2.0**-8)
    vanished = movement(train_on(halves, blueprint, rows(), long), blueprint)
    error = [np.linalg.norm(each - expected) / np.linalg.norm(expected) for each in (scaled, vanished)]
    assert error[0] < 0.1
    assert error[1] > 2 * error[0], "the same losses, much smaller, lose their gradients"


@pytest.mark.slow
def test_an_overflow_is_tried_again_with_half_the_factor_and_never_stepped_along(halves, blueprint, monkeypatch):
    plain = train_on(halves, blueprint, rows(), HALVES)
    monkeypatch.setattr(trainer, "FIRST_SCALE", 2.0**25)
    factors: list[float] = []
    honest = LossScale.settle

    def seen(self: LossScale, attempt: Callable[[], tuple[float, bool]]) -> tuple[float, bool]:
        def attempted() -> tuple[float, bool]:
            factors.append(self.factor)
            return attempt()

        return honest(self, attempted)

    monkeypatch.setattr(LossScale, "settle", seen)
    done = train_on(halves, blueprint, rows(), HALVES)
    assert factors[0] == 2.0**25 > factors[-1]
    assert len(set(factors[-3:])) == 1, "what was found is kept for the next steps"
    assert done.moments.steps == plain.moments.steps, "no step is lost"
    assert np.isfinite(done.state.flat).all()
    close = np.linalg.norm(done.state.flat - plain.state.flat) / np.linalg.norm(movement(plain, blueprint))
    assert close < 0.1


@pytest.mark.slow
def test_a_step_whose_losses_overflow_is_left_out_and_a_training_of_such_steps_is_one_line(
    halves, blueprint, monkeypatch
):
    honest, calls = trainer.BatchLoss.__call__, 0

    def overflowing(self: trainer.BatchLoss, batch: list[Example]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return honest(self, batch) * (torch.inf if calls in bad else 1)

    monkeypatch.setattr(trainer.BatchLoss, "__call__", overflowing)
    bad = range(3, 5)  # the two micro-batches of the second step
    done = train_on(halves, blueprint, rows(), HALVES)
    assert np.isfinite(done.state.flat).all()
    assert set(done.moments.steps) == {2}
    assert calls == 6, "a smaller factor would not help"
    bad = range(100)
    with pytest.raises(MachineError, match=r"all 3 steps overflowed float16.*--dtype float32"):
        train_on(halves, blueprint, rows(), HALVES)
