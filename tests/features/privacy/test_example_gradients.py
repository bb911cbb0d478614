from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForSequenceClassification

from plait.adapters import Task
from plait.adapters.methods import AdapterRequest
from plait.features.privacy.training.private_steps import ExampleGradients
from plait.training.blueprint import Blueprint, design, read_base_config
from plait.training.examples import Example
from plait.training.fused import recognise
from plait.training.losses import BatchLoss, count_labels
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.trainer import only_trained
from tests.plait.training.test_cohort import some_rows


def by_a_loop(model, parameters, examples, *, task) -> list[np.ndarray]:
    """One backward pass per example, by the code that trains without privacy."""
    loss_of = BatchLoss(model, task=task, pad_token=0)
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
def test_fused_gradients_are_those_of_one_example_after_another(
    resident: ResidentBase, blueprint: Blueprint, monkeypatch, trained, together
) -> None:
    model = resident.carrying(blueprint.spec, blueprint.initial)
    parameters = adapter_parameters(model, blueprint.spec.layout)
    moved(parameters, 3)
    model.train()
    examples = some_rows(4, 5, uneven=True)
    sides = [("A" if "lora_A" in slot.name else "B") in trained for slot in blueprint.spec.layout.slots]
    monkeypatch.setattr(ExampleGradients, "_alone", None)  # the fused way alone
    with only_trained(parameters, sides):
        gradients = ExampleGradients(model, parameters, task=Task.CAUSAL_LM, pad_token=0, together=together)
        found = [gradient.copy() for gradient in gradients(examples)]
        expected = by_a_loop(model, parameters, examples, task=Task.CAUSAL_LM)
    assert len(found) == 5
    for got, wanted in zip(found, expected, strict=True):
        assert np.linalg.norm(got - wanted) < 1e-4 * np.linalg.norm(wanted)
    # They differ from each other, and their mean is the gradient of the batch's mean of means.
    assert np.linalg.norm(found[0] - found[1]) > 0.1 * np.linalg.norm(found[0])


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 3])
def test_fused_gradients_of_square_matrices_are_those_of_peft_s_modules(
    resident: ResidentBase, tiny, monkeypatch, together
) -> None:
    """LoRA-XS: R between fixed factors, for one adapter and for several at once."""
    config = read_base_config(tiny.directory, Task.CAUSAL_LM)
    blueprint = design(config, AdapterRequest("lora_xs", rank=4), task=Task.CAUSAL_LM, seed=11)
    model = resident.carrying(blueprint.spec, blueprint.initial)
    parameters = adapter_parameters(model, blueprint.spec.layout)
    moved(parameters, 3)
    model.train()
    examples = some_rows(4, 4, uneven=True)
    monkeypatch.setattr("plait.training.losses.recognise", lambda _: None)
    expected = by_a_loop(model, parameters, examples, task=Task.CAUSAL_LM)
    monkeypatch.undo()
    whole = by_a_loop(model, parameters, examples, task=Task.CAUSAL_LM)
    assert BatchLoss(model, task=Task.CAUSAL_LM, pad_token=0).recomputes
    monkeypatch.setattr(ExampleGradients, "_alone", None)
    gradients = ExampleGradients(model, parameters, task=Task.CAUSAL_LM, pad_token=0, together=together)
    for got, fused, wanted in zip(gradients(examples), whole, expected, strict=True):
        assert np.linalg.norm(wanted) > 0.01
        assert np.linalg.norm(got - wanted) < 1e-4 * np.linalg.norm(wanted)
        assert np.linalg.norm(fused - wanted) < 1e-4 * np.linalg.norm(wanted)
    with model.disable_adapter():
        assert all(layer.pair is None for block in recognise(model).blocks for layer in block.linears)


@pytest.mark.slow
def test_an_example_s_gradient_does_not_depend_on_the_others_in_its_batch(
    resident: ResidentBase, blueprint: Blueprint
) -> None:
    model = resident.carrying(blueprint.spec, blueprint.initial)
    parameters = adapter_parameters(model, blueprint.spec.layout)
    moved(parameters, 7)
    model.train()
    first, *others = some_rows(9, 4, uneven=True)
    gradients = ExampleGradients(model, parameters, task=Task.CAUSAL_LM, pad_token=0, together=4)
    alone = next(gradients([first])).copy()
    for batch in ([first, *others], [others[0], first]):
        among = list(map(np.copy, gradients(batch)))[batch.index(first) if batch[0] is first else 1]
        assert np.linalg.norm(among - alone) < 1e-4 * np.linalg.norm(alone)


def adapted(model, **settings):
    torch.manual_seed(2)
    peft = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, **settings)).train()
    parameters = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    moved(parameters, 5)
    return peft, parameters


def test_other_models_give_the_gradients_of_their_own_modules() -> None:
    small = GPT2Config(
        vocab_size=2000, n_positions=32, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    model, parameters = adapted(GPT2LMHeadModel(small), target_modules=["c_attn"], fan_in_fan_out=True, use_dora=True)
    examples = some_rows(6, 3, uneven=True)
    gradients = ExampleGradients(model, parameters, task=Task.CAUSAL_LM, pad_token=0, together=2)
    expected = by_a_loop(model, parameters, examples, task=Task.CAUSAL_LM)
    for got, wanted in zip(gradients(examples), expected, strict=True):
        assert np.allclose(got, wanted, rtol=1e-5, atol=1e-8)
    assert all(parameter.grad is None for parameter in parameters)


def test_a_classifier_has_one_term_per_example() -> None:
    small = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0,
        num_labels=3,
    )  # fmt: skip
    model, parameters = adapted(LlamaForSequenceClassification(small), target_modules=["q_proj"], task_type="SEQ_CLS")
    tokens = [np.asarray(row, np.int32) for row in ([5, 9, 3], [7, 7, 8, 2, 60])]
    examples = [Example(row, np.asarray([label], np.int32)) for row, label in zip(tokens, (2, 0), strict=True)]
    found = ExampleGradients(model, parameters, task=Task.CLASSIFICATION, pad_token=0, together=8)(examples)
    for got, wanted in zip(found, by_a_loop(model, parameters, examples, task=Task.CLASSIFICATION), strict=True):
        assert np.allclose(got, wanted, rtol=1e-5, atol=1e-8)
