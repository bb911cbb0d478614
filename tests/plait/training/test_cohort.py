from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from plait.adapters import AdapterState, Task
from plait.rounds.local_model import Carried
from plait.rounds.moments import Moments
from plait.training.bases import LocatedBase
from plait.training.blueprint import Blueprint
from plait.training.cohort import train_cohort
from plait.training.device import Compute
from plait.training.examples import IGNORED, Example
from plait.training.learner import LocalTraining, TrainingInputs
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.trainer import train_steps
from plait.wire.settings import Settings

SETTINGS = Settings(
    local_steps=3, batch_size=2, gradient_accumulation_steps=1, seq_len=24, learning_rate=1e-2, weight_decay=0.1,
    max_grad_norm=0.5, held_out_fraction=0.1, max_held_out_sequences=4, seed=5, total_steps=3,
)  # fmt: skip


def some_rows(seed: int, count: int, *, uneven: bool = False) -> list[Example]:
    """Sequences; uneven ones differ in length, and some of their tokens do not count."""
    generator = np.random.default_rng(seed)
    rows: list[Example] = []
    for _ in range(count):
        tokens = generator.integers(3, 2000, int(generator.integers(6, 24)) if uneven else 24).astype(np.int32)
        labels = np.where(generator.random(len(tokens)) < 0.3 * uneven, IGNORED, tokens).astype(np.int32)
        rows.append(Example(tokens, np.append(labels[:-1], tokens[-1:]).astype(np.int32)))
    return rows


def all_inputs(blueprint: Blueprint, settings: Settings, *, uneven: bool = False) -> list[TrainingInputs]:
    """Three clients with different data, seeds and starts."""
    size = blueprint.spec.layout.size
    starts = [np.random.default_rng(seed).normal(0, 0.02, size).astype(np.float32) for seed in range(3)]
    return [
        TrainingInputs(some_rows(seed, 3 + seed, uneven=uneven), replace(settings, seed=seed), start)
        for seed, start in enumerate(starts)
    ]


def one_by_one(base: ResidentBase, blueprint: Blueprint, given: Sequence[TrainingInputs]) -> list[LocalTraining]:
    model = base.carrying(blueprint.spec, blueprint.initial)
    parameters = adapter_parameters(model, blueprint.spec.layout)
    return [
        train_steps(model, parameters, each, task=Task.CAUSAL_LM, pad_token=0)
        for each in given
    ]  # fmt: skip


def together(base: ResidentBase, blueprint: Blueprint, given: Sequence[TrainingInputs]) -> list[LocalTraining]:
    model = base.carrying(blueprint.spec, blueprint.initial)
    found = train_cohort(model, adapter_parameters(model, blueprint.spec.layout), given, task=Task.CAUSAL_LM)
    assert found is not None
    return found


def assert_equal(
    ours: Sequence[LocalTraining], alone: Sequence[LocalTraining], given: Sequence[TrainingInputs]
) -> None:
    assert len(ours) == len(alone) == len(given)
    for mine, plain, inputs in zip(ours, alone, given, strict=True):
        step = np.linalg.norm(plain.flat - inputs.start)
        assert np.linalg.norm(mine.flat - plain.flat) < 1e-3 * step
        assert np.linalg.norm(mine.moments.mean - plain.moments.mean) < 1e-3 * np.linalg.norm(plain.moments.mean)
        assert mine.moments.steps == plain.moments.steps
        assert mine.report.loss == pytest.approx(plain.report.loss, rel=1e-4)
        assert mine.report.tokens == plain.report.tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "uneven"),
    [
        (SETTINGS, False),
        (SETTINGS, True),
        (replace(SETTINGS, gradient_accumulation_steps=2, proximal=0.5), True),
        (replace(SETTINGS, trained="A", lr_schedule="linear", total_steps=40, warmup_steps=1), True),
    ],
    ids=["even", "uneven", "accumulated, FedProx", "one side, schedule"],
)
def test_every_adapter_takes_the_steps_that_it_takes_alone(
    resident: ResidentBase, blueprint: Blueprint, settings: Settings, uneven: bool
) -> None:
    given = all_inputs(blueprint, settings, uneven=uneven)
    assert_equal(together(resident, blueprint, given), one_by_one(resident, blueprint, given), given)


@pytest.mark.slow
def test_moments_and_drift_are_each_adapters_own(resident: ResidentBase, blueprint: Blueprint) -> None:
    first = all_inputs(blueprint, SETTINGS)
    drift = np.random.default_rng(9).normal(0, 1e-3, blueprint.spec.layout.size).astype(np.float32)
    carried: list[Moments | None] = [done.moments for done in one_by_one(resident, blueprint, first)]
    carried[1] = None
    drifts = (drift, None, -drift)
    given = [
        replace(each, carried=Carried(moments=m, drift=d)) for each, m, d in zip(first, carried, drifts, strict=True)
    ]
    assert_equal(together(resident, blueprint, given), one_by_one(resident, blueprint, given), given)


def test_the_same_cohort_gives_the_same_bits(resident: ResidentBase, blueprint: Blueprint) -> None:
    given = all_inputs(blueprint, SETTINGS)
    first, again = (together(resident, blueprint, given) for _ in range(2))
    assert all(np.array_equal(a.flat, b.flat) for a, b in zip(first, again, strict=True))


@pytest.mark.slow
def test_a_bfloat16_base_trains_a_cohort_as_well_as_one(tiny: LocatedBase, blueprint: Blueprint) -> None:
    half = ResidentBase(
        tiny.directory, tiny.reference.fingerprint, Compute(torch.device("cpu"), torch.bfloat16), seq_len=24
    )
    given = all_inputs(blueprint, SETTINGS)
    for mine, plain in zip(together(half, blueprint, given), one_by_one(half, blueprint, given), strict=True):
        assert mine.report.loss == pytest.approx(plain.report.loss, rel=2e-3)


@pytest.mark.slow
def test_the_model_is_left_as_it_was(resident: ResidentBase, blueprint: Blueprint) -> None:
    values = np.random.default_rng(4).normal(0, 0.02, blueprint.spec.layout.size).astype(np.float32)
    model = resident.carrying(blueprint.spec, AdapterState(blueprint.spec.layout, values))
    parameters = adapter_parameters(model, blueprint.spec.layout)
    before = [parameter.detach().clone() for parameter in parameters]
    train_cohort(model, parameters, all_inputs(blueprint, SETTINGS), task=Task.CAUSAL_LM)
    assert all(torch.equal(now, then) for now, then in zip(parameters, before, strict=True))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in parameters)


def test_what_does_not_go_together_is_left_to_others(resident: ResidentBase, blueprint: Blueprint) -> None:
    model = resident.carrying(blueprint.spec, blueprint.initial)
    parameters = adapter_parameters(model, blueprint.spec.layout)
    given = all_inputs(blueprint, SETTINGS)
    unlike = [*given[:2], replace(given[2], settings=replace(SETTINGS, local_steps=4))]
    assert train_cohort(model, parameters, unlike, task=Task.CAUSAL_LM) is None
    assert train_cohort(model, parameters, given, task=Task.CLASSIFICATION) is None
    config = LlamaConfig(
        vocab_size=2000, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    unknown = get_peft_model(LlamaForCausalLM(config), LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.5))
    trained = [parameter for parameter in unknown.parameters() if parameter.requires_grad]
    assert train_cohort(unknown, trained, given, task=Task.CAUSAL_LM) is None
