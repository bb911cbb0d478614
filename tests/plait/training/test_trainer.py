from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from plait.adapters import AdapterState, Task, norm, subtract
from plait.training.blueprint import Blueprint
from plait.training.examples import IGNORED, Example
from plait.training.resident import ResidentBase, read_adapter, trainable_parameters
from plait.training.trainer import judge, pad, schedule_factor, summed_loss, train_steps
from plait.wire.messages import Settings

SETTINGS = Settings(
    local_steps=3, batch_size=2, gradient_accumulation_steps=1, seq_len=32, learning_rate=1e-2, weight_decay=0.0,
    max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=4, seed=5, total_steps=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def rows(resident: ResidentBase) -> list[Example]:
    generator = np.random.default_rng(0)
    return [Example(row, row) for row in generator.integers(3, 2000, (8, 32)).astype(np.int32)]


def trained(resident: ResidentBase, blueprint: Blueprint, rows: list[Example], settings: Settings) -> AdapterState:
    model = resident.carrying(blueprint.spec, blueprint.initial)
    train_steps(model, trainable_parameters(model), rows, settings, task=Task.CAUSAL_LM, pad_token=0)
    return read_adapter(model, blueprint.initial)


def test_training_lowers_the_loss_on_what_it_trains_on(
    resident: ResidentBase, blueprint: Blueprint, rows: list[Example]
) -> None:
    model = resident.carrying(blueprint.spec, blueprint.initial)
    before = judge(model, rows, task=Task.CAUSAL_LM, pad_token=0, batch_size=4)
    train_steps(
        model, trainable_parameters(model), rows, replace(SETTINGS, local_steps=20), task=Task.CAUSAL_LM, pad_token=0
    )
    after = judge(model, rows, task=Task.CAUSAL_LM, pad_token=0, batch_size=4)
    assert after.loss < before.loss - 0.1
    assert after.counted == before.counted == 8 * 31


def test_same_seed_same_bits_other_seed_other_bits(
    resident: ResidentBase, blueprint: Blueprint, rows: list[Example]
) -> None:
    first, again = (trained(resident, blueprint, rows, SETTINGS) for _ in range(2))
    other = trained(resident, blueprint, rows, replace(SETTINGS, seed=6))
    assert first.digest() == again.digest()
    assert first.digest() != other.digest()


def test_accumulating_gradients_equals_one_large_batch(
    resident: ResidentBase, blueprint: Blueprint, rows: list[Example]
) -> None:
    whole = trained(resident, blueprint, rows, replace(SETTINGS, batch_size=4))
    parts = trained(resident, blueprint, rows, replace(SETTINGS, batch_size=2, gradient_accumulation_steps=2))
    assert norm(subtract(whole, parts)) < 1e-3 * norm(subtract(whole, blueprint.initial))


def test_masked_tokens_and_padding_do_not_count(resident: ResidentBase, blueprint: Blueprint) -> None:
    model = resident.carrying(blueprint.spec, blueprint.initial)
    tokens = np.arange(5, 17, dtype=np.int32)
    labels = np.where(np.arange(12) >= 8, tokens, IGNORED).astype(np.int32)
    short, long = Example(tokens, labels), Example(np.arange(40, 72, dtype=np.int32), np.arange(40, 72, dtype=np.int32))
    logits = model(input_ids=torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].double()
    log_probability = torch.log_softmax(logits, dim=-1)
    expected = -sum(log_probability[position - 1, tokens[position]].item() for position in range(8, 12))
    device = torch.device("cpu")
    alone = summed_loss(model, [short], task=Task.CAUSAL_LM, pad_token=0, device=device).item()
    long_alone = summed_loss(model, [long], task=Task.CAUSAL_LM, pad_token=0, device=device).item()
    both = summed_loss(model, [short, long], task=Task.CAUSAL_LM, pad_token=0, device=device).item()
    assert alone == pytest.approx(expected, rel=1e-4)
    assert both == pytest.approx(alone + long_alone, rel=1e-4)


def test_pad_gives_no_mask_where_nothing_is_padded() -> None:
    rows = [np.array([1, 2], np.int32), np.array([3, 4], np.int32)]
    tensor, mask = pad(rows, 0, torch.device("cpu"))
    assert tensor.tolist() == [[1, 2], [3, 4]]
    assert mask is None
    tensor, mask = pad([*rows, np.array([5], np.int32)], 9, torch.device("cpu"))
    assert tensor.tolist() == [[1, 2], [3, 4], [5, 9]]
    assert mask is not None
    assert mask.tolist() == [[1, 1], [1, 1], [1, 0]]


def test_schedules_span_the_whole_run() -> None:
    settings = replace(SETTINGS, total_steps=12, warmup_steps=2, lr_schedule="linear")
    assert [round(schedule_factor(settings, step), 3) for step in (0, 1, 2, 7, 12)] == [0.333, 0.667, 1.0, 0.5, 0.0]
    cosine = replace(settings, lr_schedule="cosine")
    assert schedule_factor(cosine, 7) == pytest.approx(0.5)
    assert schedule_factor(replace(settings, lr_schedule="constant"), 11) == 1.0
