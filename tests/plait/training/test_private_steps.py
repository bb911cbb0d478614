from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForSequenceClassification

from plait.adapters import AdapterState, AdapterTask
from plait.errors import ConfigError
from plait.privacy.client import Charge, RecordPrivacy
from plait.rounds.local_model import Trained
from plait.training.examples import IGNORED, Example, count_labels
from plait.training.fused import language_model
from plait.training.fused.language_model import recognise
from plait.training.learner import Learner, TrainingInputs
from plait.training.losses import BatchLoss, StepMemory
from plait.training.private_steps import ExampleGradients, Units, train_privately
from plait.training.resident import adapter_parameters
from plait.training.trainer import only_trained
from tests.plait.training.conftest import SETTINGS as SMALL
from tests.plait.training.conftest import designed

SETTINGS = replace(SMALL, local_steps=3, seq_len=24, weight_decay=0.1, max_grad_norm=0.5, total_steps=3)


def some_rows(seed: int, count: int, *, uneven: bool = False) -> list[Example]:
    """Sequences; uneven ones differ in length, and some of their tokens do not count."""
    generator = np.random.default_rng(seed)
    rows: list[Example] = []
    for _ in range(count):
        tokens = generator.integers(3, 2000, int(generator.integers(6, 24)) if uneven else 24).astype(np.int32)
        labels = np.where(generator.random(len(tokens)) < 0.3 * uneven, IGNORED, tokens).astype(np.int32)
        rows.append(Example(tokens, np.append(labels[:-1], tokens[-1:]).astype(np.int32)))
    return rows


def by_a_loop(model, parameters, examples, *, task) -> list[np.ndarray]:
    """One backward pass per example, by the code that trains without privacy."""
    loss_of = BatchLoss(model, task=task)
    found = []
    for example in examples:
        (loss_of([example]) / count_labels(example, task)).backward()
        zeros = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        found.append(torch.cat([gradient.float().flatten() for gradient in zeros]).numpy())
        for parameter in parameters:
            parameter.grad = None
    return found


def moved(parameters, seed: int) -> None:
    """Away from B = 0, where A has no gradient."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["AB", "A", "B"])
@pytest.mark.parametrize("together", [1, 3, 8])
def test_fused_gradients_are_those_of_one_example_after_another(resident, blueprint, monkeypatch, trained, together):
    model = resident.with_adapter(blueprint.spec, blueprint.initial)
    parameters = adapter_parameters(model, blueprint.spec.layout)
    moved(parameters, 3)
    model.train()
    examples = some_rows(4, 5, uneven=True)
    sides = [("A" if "lora_A" in slot.name else "B") in trained for slot in blueprint.spec.layout.slots]
    monkeypatch.setattr(ExampleGradients, "_alone", None)  # the fused way alone
    with only_trained(parameters, sides):
        gradients = ExampleGradients(model, parameters, together=together)
        found = [gradient.copy() for gradient in gradients(examples)]
        expected = by_a_loop(model, parameters, examples, task=AdapterTask.CAUSAL_LM)
    assert len(found) == 5
    for got, wanted in zip(found, expected, strict=True):
        assert np.linalg.norm(got - wanted) < 1e-4 * np.linalg.norm(wanted)
    # They differ from each other, and their mean is the gradient of the batch's mean of means.
    assert np.linalg.norm(found[0] - found[1]) > 0.1 * np.linalg.norm(found[0])


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 3])
def test_fused_gradients_of_square_matrices_are_those_of_peft_s_modules(resident, tiny, monkeypatch, together):
    """LoRA-XS: R between fixed factors, for one adapter and for several at once."""
    blueprint = designed(tiny, "lora_xs")
    model = resident.with_adapter(blueprint.spec, blueprint.initial)
    parameters = adapter_parameters(model, blueprint.spec.layout)
    moved(parameters, 3)
    model.train()
    examples = some_rows(4, 4, uneven=True)
    monkeypatch.setattr("plait.training.losses.recognise", lambda _: None)
    expected = by_a_loop(model, parameters, examples, task=AdapterTask.CAUSAL_LM)
    monkeypatch.undo()
    whole = by_a_loop(model, parameters, examples, task=AdapterTask.CAUSAL_LM)
    assert BatchLoss(model).recomputes
    monkeypatch.setattr(ExampleGradients, "_alone", None)
    gradients = ExampleGradients(model, parameters, together=together)
    for got, fused, wanted in zip(gradients(examples), whole, expected, strict=True):
        assert np.linalg.norm(wanted) > 0.01
        assert np.linalg.norm(got - wanted) < 1e-4 * np.linalg.norm(wanted)
        assert np.linalg.norm(fused - wanted) < 1e-4 * np.linalg.norm(wanted)
    with model.disable_adapter():
        assert all(layer.pair is None for block in recognise(model).blocks for layer in block.linears)


def adapted(model, **settings):
    torch.manual_seed(2)
    peft = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, **settings)).train()
    parameters = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    moved(parameters, 5)
    return peft, parameters


def test_other_models_give_the_gradients_of_their_own_modules():
    small = GPT2Config(
        vocab_size=2000, n_positions=32, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    model, parameters = adapted(GPT2LMHeadModel(small), target_modules=["c_attn"], fan_in_fan_out=True, use_dora=True)
    examples = some_rows(6, 3, uneven=True)
    gradients = ExampleGradients(model, parameters, together=2)
    expected = by_a_loop(model, parameters, examples, task=AdapterTask.CAUSAL_LM)
    for got, wanted in zip(gradients(examples), expected, strict=True):
        assert np.allclose(got, wanted, rtol=1e-5, atol=1e-8)
    assert all(parameter.grad is None for parameter in parameters)


def test_a_classifier_has_one_term_per_example():
    small = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0,
        num_labels=3,
    )  # fmt: skip
    model, parameters = adapted(LlamaForSequenceClassification(small), target_modules=["q_proj"], task_type="SEQ_CLS")
    tokens = [np.asarray(row, np.int32) for row in ([5, 9, 3], [7, 7, 8, 2, 60])]
    examples = [Example(row, np.asarray([label], np.int32)) for row, label in zip(tokens, (2, 0), strict=True)]
    found = ExampleGradients(model, parameters, task=AdapterTask.CLASSIFICATION, together=8)(examples)
    for got, wanted in zip(found, by_a_loop(model, parameters, examples, task=AdapterTask.CLASSIFICATION), strict=True):
        assert np.allclose(got, wanted, rtol=1e-5, atol=1e-8)


ROWS = some_rows(2, 6, uneven=True)
KEY = b"k" * 32
SILENT = RecordPrivacy(records=6, batch=6, noise=2e-4, delta=1e-5, epsilon=float("inf"), clip_norm=0.5)


def trained(
    resident, blueprint, privacy, *, rows=ROWS, key=KEY, start=None, memory=None, groups=(), **settings
) -> Trained:
    model = resident.with_adapter(blueprint.spec, blueprint.initial)
    layout = blueprint.spec.layout
    start = np.random.default_rng(1).normal(0, 0.05, layout.size) if start is None else start
    inputs = TrainingInputs(rows, replace(SETTINGS, **settings), AdapterState(layout, start.astype(np.float32)))
    charge = Charge(privacy, key, 0.0)
    return train_privately(model, adapter_parameters(model, layout), inputs, charge, memory=memory, groups=groups)


@pytest.fixture
def gradients(monkeypatch) -> list[np.ndarray]:
    """Every noised gradient that a step is taken along."""
    seen: list[np.ndarray] = []
    step = Learner.noised_step

    def watched(self, gradient):
        seen.append(gradient.copy())
        step(self, gradient)

    monkeypatch.setattr(Learner, "noised_step", watched)
    return seen


@pytest.mark.parametrize("clip_norm", [0.5, None])
@pytest.mark.parametrize("sides", ["AB", "B"])
def test_a_step_s_gradient_is_the_mean_of_clipped_ones(resident, blueprint, gradients, clip_norm, sides):
    trained(resident, blueprint, replace(SILENT, clip_norm=clip_norm), local_steps=1, trained=sides)
    model = resident.with_adapter(blueprint.spec, blueprint.initial)
    parameters = adapter_parameters(model, blueprint.spec.layout)
    start = np.random.default_rng(1).normal(0, 0.05, blueprint.spec.layout.size).astype(np.float32)
    for parameter, slot in zip(parameters, blueprint.spec.layout.slots, strict=True):
        part = start[slot.offset : slot.offset + slot.size].reshape(slot.shape)
        parameter.data.copy_(parameter.data.new_tensor(part))
    moves = np.concatenate([
        np.full(slot.size, ("A" if "lora_A" in slot.name else "B") in sides) for slot in blueprint.spec.layout.slots
    ])  # fmt: skip
    each = [gradient * moves for gradient in by_a_loop(model, parameters, ROWS, task=AdapterTask.CAUSAL_LM)]
    norms = [np.linalg.norm(gradient) for gradient in each]
    assert min(norms) > 0.5  # so that clipping does something
    factor = [min(1.0, 0.5 / norm) if clip_norm else 1 / norm for norm in norms]
    expected = sum(gradient * one for gradient, one in zip(each, factor, strict=True)) / 6
    assert np.linalg.norm(gradients[0] - expected) < 0.05 * np.linalg.norm(expected)
    assert not gradients[0][~moves].any()


def test_no_record_moves_the_sum_by_more_than_the_clip_norm(resident, blueprint, gradients):
    # Noise and rounding are the same under one key, so what differs is the records' own.
    other = [*some_rows(77, 1), *ROWS[1:]]
    for rows in (ROWS, other):
        trained(resident, blueprint, SILENT, rows=rows, local_steps=1)
    # One clipped record is taken away and another one is added.
    assert 0.1 < 6 * np.linalg.norm(gradients[0] - gradients[1]) <= 2 * 0.5 * 1.05


def test_a_person_with_many_records_moves_the_sum_no_more_than_one_with_one(resident, blueprint, gradients):
    # One group has nine records, of which eight take part in a step; the two others have one each.
    rows, groups, privacy = [*ROWS[:2], *some_rows(77, 9)], [0, 1, *(2,) * 9], replace(SILENT, records=3, batch=3)
    trained(resident, blueprint, privacy, rows=rows[:3], groups=groups[:3], group_records=8, local_steps=1)
    trained(resident, blueprint, privacy, rows=rows, groups=groups, group_records=8, local_steps=1)
    trained(resident, blueprint, privacy, rows=rows[:3], groups=groups[:3], group_records=1, local_steps=1)
    assert 0.1 < 3 * np.linalg.norm(gradients[0] - gradients[1]) <= 2 * 0.5 * 1.05
    assert (gradients[0] == gradients[2]).all()


def test_a_group_s_sum_is_clipped_and_no_step_has_more_of_it_than_agreed(resident, blueprint, gradients):
    loose = replace(SILENT, records=2, batch=2, clip_norm=20.0, noise=2e-6)
    trained(resident, blueprint, loose, groups=[0, 0, 0, 0, 1, 1], group_records=4, local_steps=1)
    trained(resident, blueprint, replace(loose, records=6, batch=6), local_steps=1)
    assert np.linalg.norm(2 * gradients[0] - 6 * gradients[1]) < 0.1 * np.linalg.norm(6 * gradients[1])
    units = Units.of([5, 5, 5, 5, 9, 9], most=3, key=KEY)
    drawn = [tuple(sorted(units.drawn(0))) for _ in range(200)]
    assert {len(each) for each in drawn} == {3}
    assert len(set(drawn)) == 4
    assert units.drawn(1) == [4, 5]


@pytest.mark.slow
def test_one_key_gives_one_result_and_another_key_another(resident, blueprint):
    privacy = replace(SILENT, batch=3, noise=1.0)
    first, again, other = (trained(resident, blueprint, privacy, key=key) for key in (KEY, KEY, b"o" * 32))
    assert first.state.flat.tobytes() == again.state.flat.tobytes()
    assert first.state.flat.tobytes() != other.state.flat.tobytes()


def test_blocks_are_computed_twice_as_planned_and_nothing_else_is_given_up(resident, blueprint, monkeypatch):
    twice: list[bool] = []
    honest = language_model.run_block

    def watched(*given, recomputed, **named):
        twice.append(recomputed)
        return honest(*given, recomputed=recomputed, **named)

    monkeypatch.setattr(language_model, "run_block", watched)
    memory = StepMemory(recomputed=1, cuts=2, slice_elements=1)
    found = [
        trained(resident, blueprint, SILENT, memory=given, local_steps=1).state.flat.tobytes()
        for given in (None, memory)
    ]
    assert found[0] == found[1]
    half = len(twice) // 2
    assert not any(twice[:half])
    assert twice[half]
    assert not twice[half + 1]


def test_nothing_is_reported_that_no_noise_covers(resident, blueprint):
    report = trained(resident, blueprint, replace(SILENT, batch=3)).report
    assert (report.loss, report.first_loss, report.tokens, report.seconds, report.shortened) == (0.0, 0.0, 0, 0.0, 0.0)


def test_what_cannot_be_private_is_refused(resident, blueprint):
    with pytest.raises(ConfigError, match="one that is found in the data would not be private"):
        trained(resident, blueprint, SILENT, learning_rate=0.0)
    with pytest.raises(ConfigError, match="6 examples, expected the 7 that are paid for"):
        trained(resident, blueprint, replace(SILENT, records=7))
