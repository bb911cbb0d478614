from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from plait.adapters import AdapterState, Task, norm, subtract
from plait.training.bases import LocatedBase
from plait.training.blueprint import Blueprint
from plait.training.device import Compute
from plait.training.examples import IGNORED, Example
from plait.training.resident import ResidentBase, adapter_parameters, read_adapter
from plait.training.trainer import judge, pad, schedule_factor, summed_loss, train_steps
from plait.wire.settings import Settings

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
    parameters = adapter_parameters(model, blueprint.spec.layout)
    start = blueprint.initial.flat
    flat, _ = train_steps(model, parameters, rows, settings, start=start, task=Task.CAUSAL_LM, pad_token=0)
    return AdapterState(blueprint.spec.layout, flat)


def test_training_lowers_the_loss_on_what_it_trains_on(
    resident: ResidentBase, blueprint: Blueprint, rows: list[Example]
) -> None:
    def loss(state: AdapterState) -> float:
        model = resident.carrying(blueprint.spec, state)
        return judge(model, rows, task=Task.CAUSAL_LM, pad_token=0, batch_size=4).loss

    after = trained(resident, blueprint, rows, replace(SETTINGS, local_steps=20))
    assert loss(after) < loss(blueprint.initial) - 0.1


def test_steps_equal_torchs_own_adamw_on_pefts_parameters(
    resident: ResidentBase, blueprint: Blueprint, rows: list[Example]
) -> None:
    settings = replace(SETTINGS, weight_decay=0.1, max_grad_norm=0.05, batch_size=8)
    ours = trained(resident, blueprint, rows, settings)
    model = resident.carrying(blueprint.spec, blueprint.initial).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.1)
    tokens = torch.stack([torch.from_numpy(row.tokens.astype(np.int64)) for row in rows])
    for _ in range(settings.local_steps):  # a batch of all rows: their order does not matter
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.05)
        optimizer.step()
        optimizer.zero_grad()
    theirs = read_adapter(model, blueprint.initial)
    assert norm(subtract(ours, theirs)) < 1e-3 * norm(subtract(theirs, blueprint.initial))


def test_a_bfloat16_base_trains_float32_masters(tiny: LocatedBase, blueprint: Blueprint, rows: list[Example]) -> None:
    half = ResidentBase(
        tiny.directory, tiny.reference.fingerprint, Compute(torch.device("cpu"), torch.bfloat16), seq_len=32
    )
    after = trained(half, blueprint, rows, replace(SETTINGS, learning_rate=1e-4))
    step = subtract(after, blueprint.initial).flat
    # Steps of 1e-4 on values of up to 0.09 would mostly vanish in bfloat16, whose neighbours are 2**-12 apart there.
    assert np.mean(step != 0) > 0.99
    assert np.abs(step).max() < 4e-4


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
