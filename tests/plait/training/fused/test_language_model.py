from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from plait.training.examples import IGNORED, Example
from plait.training.fused.language_model import recognise
from plait.training.losses import BatchLoss
from plait.training.model_losses import ModelLosses
from plait.training.qlora import Packed, keep_trainable

WORDS = 300
SHAPE = {
    "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip


def llama(**options: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, **options))


def mistral(**options: Any) -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SHAPE, **options))


def qwen2(**options: Any) -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, **options))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": llama,
    "llama, tied": lambda: llama(tie_word_embeddings=True),
    "llama, biases, long context": lambda: llama(
        attention_bias=True,
        mlp_bias=True,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
    ),
    "mistral, wide heads": lambda: mistral(head_dim=16, sliding_window=None),
    "qwen2, biases, tied": lambda: qwen2(tie_word_embeddings=True),
}  # fmt: skip


def adapted(model: PreTrainedModel, dtype: torch.dtype = torch.float32, **options: Any) -> PeftModel:
    """With an adapter whose B is not zero, and biases that are not either."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options)
    peft = get_peft_model(model.to(dtype), config, autocast_adapter_dtype=False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name or name.endswith("bias"):
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return peft.train()


def batch() -> list[Example]:
    """Sequences of unequal length, some of whose tokens do not count."""
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, WORDS, length).astype(np.int32) for length in (12, 12, 5, 30)]
    masked = [np.where(generator.random(len(row)) < 0.4, IGNORED, row).astype(np.int32) for row in rows]
    return [Example(row, labels) for row, labels in zip(rows, [rows[0], *masked[1:]], strict=True)]


def gradients(model: PeftModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    loss.backward()
    found = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    left, right = (torch.cat([x[name].flatten() for name in sorted(x)]) for x in (ours, theirs))
    return float((left - right).norm() / right.norm())


def plain_loss(model: PeftModel, examples: list[Example]) -> torch.Tensor:
    return ModelLosses(model).total(examples)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_loss_and_gradients_are_those_of_peft(make, computed):
    model = adapted(make())
    fused = recognise(model)
    losses, counts = fused.token_losses(batch())
    theirs = plain_loss(model, batch())
    assert counts == [int((example.labels[1:] != IGNORED).sum()) for example in batch()]
    assert losses.sum().item() == pytest.approx(theirs.item(), rel=1e-5)
    assert distance(gradients(model, losses.sum()), gradients(model, theirs)) < 1e-4


@pytest.mark.slow
def test_in_bfloat16_it_is_no_farther_from_float32_than_peft_is(computed):
    half = adapted(llama(), torch.bfloat16)
    exact = adapted(llama())
    with torch.no_grad():  # the same numbers as in bfloat16
        for into, value in zip(exact.parameters(), half.parameters(), strict=True):
            into.copy_(value)
    true = gradients(exact, plain_loss(exact, batch()))
    theirs = gradients(half, plain_loss(half, batch()))
    fused = recognise(half)
    losses = fused.token_losses(batch())[0].sum()
    assert losses.item() == pytest.approx(plain_loss(exact, batch()).item(), rel=2e-3)
    assert distance(gradients(half, losses), true) < 1.2 * distance(theirs, true) < 0.1


def in_four_bits() -> PreTrainedModel:
    """A base whose layers inside the blocks bitsandbytes holds in NF4, as `four_bits` loads one."""
    import bitsandbytes.nn as library

    model = llama()
    for block in model.get_submodule("model.layers").children():
        for name, linear in [(name, part) for name, part in block.named_modules() if type(part) is torch.nn.Linear]:
            parent, _, child = name.rpartition(".")
            packed = library.Linear4bit(
                linear.in_features, linear.out_features, bias=False, compute_dtype=torch.float32, quant_type="nf4"
            )
            packed.weight = library.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4").to("cpu")
            setattr(block.get_submodule(parent), child, packed)
    keep_trainable(model)
    return model


@pytest.mark.extra("qlora")
def test_a_base_in_four_bits_computes_as_peft_does():
    model = adapted(in_four_bits())
    fused = recognise(model)
    assert all(isinstance(linear.weight, Packed) for block in fused.blocks for linear in block.linears)
    kept = fused.token_losses(batch())[0].sum()
    ours = gradients(model, kept)
    theirs = plain_loss(model, batch())
    assert kept.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert distance(ours, gradients(model, theirs)) < 1e-4
    recomputed = fused.token_losses(batch(), recomputed=2)[0].sum()
    twice = gradients(model, recomputed)
    assert all(torch.equal(twice[name], ours[name]) for name in ours)


@pytest.mark.slow
def test_rows_of_several_adapters_compute_as_each_adapter_alone():
    model = adapted(llama())
    fused = recognise(model)
    examples = batch()
    own = [(layer.pair.A, layer.pair.B) for block in fused.blocks for layer in block.linears if layer.pair is not None]
    generator = torch.Generator().manual_seed(1)
    several = {id(A): tuple(0.1 * torch.randn(2, *x.shape, generator=generator) for x in (A, B)) for A, B in own}
    stacked = {key: (A.requires_grad_(), B.requires_grad_()) for key, (A, B) in several.items()}
    losses, _ = fused.token_losses(examples, adapters=2, pairs=stacked)
    losses.sum().backward()
    alone: list[torch.Tensor] = []
    for adapter in range(2):
        for A, B in own:
            for into, value in zip((A, B), stacked[id(A)], strict=True):
                into.data.copy_(value[adapter].detach())
        loss = fused.token_losses(examples[2 * adapter : 2 * adapter + 2])[0]
        loss.sum().backward()
        alone.append(loss.detach())
        for A, B in own:
            for parameter, value in zip((A, B), stacked[id(A)], strict=True):
                torch.testing.assert_close(value.grad[adapter], parameter.grad, rtol=1e-4, atol=1e-5)
                parameter.grad = None
    torch.testing.assert_close(losses.detach(), torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_a_switched_off_adapter_is_the_bare_base():
    model = adapted(llama())
    with model.disable_adapter(), torch.no_grad():
        fused = recognise(model)
        assert fused.token_losses(batch())[0].sum().item() == pytest.approx(plain_loss(model, batch()).item(), rel=1e-5)


def test_beyond_a_sliding_window_pefts_way_is_taken():
    model = adapted(mistral(sliding_window=8, attn_implementation="eager"))
    fused = recognise(model)
    short = [Example(example.tokens[:8], example.labels[:8]) for example in batch()]
    assert fused.takes(short)
    assert not fused.takes(batch())
    loss = BatchLoss(model)
    assert loss(batch()).item() == pytest.approx(plain_loss(model, batch()).item(), rel=1e-6)
    assert loss(short).item() == pytest.approx(plain_loss(model, short).item(), rel=1e-5)


def test_only_the_side_that_asks_gets_gradients():
    model = adapted(llama())
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    fused = recognise(model)
    ours = gradients(model, fused.token_losses(batch())[0].sum())
    assert ours.keys()
    assert all("lora_B" in name for name in ours)
    assert distance(ours, gradients(model, plain_loss(model, batch()))) < 1e-4


def hooked() -> PeftModel:
    model = adapted(llama())
    next(m for n, m in model.named_modules() if n.endswith("q_proj")).register_forward_hook(lambda *_: None)
    return model


def merged() -> PeftModel:
    model = adapted(llama())
    model.merge_adapter()
    return model


UNKNOWN: dict[str, Callable[[], torch.nn.Module]] = {
    "dropout": lambda: adapted(llama(), lora_dropout=0.1),
    "dora": lambda: adapted(llama(), use_dora=True),
    "a bias of the adapter": lambda: adapted(llama(attention_bias=True), target_modules=["q_proj"], lora_bias=True),
    "biases of the base that train": lambda: adapted(qwen2(), bias="lora_only"),
    "an adapter on the head": lambda: adapted(llama(), target_modules=["lm_head"]),
    "an adapter in another type": lambda: get_peft_model(
        llama().to(torch.bfloat16), LoraConfig(target_modules="all-linear"), autocast_adapter_dtype=True
    ),
    "another activation": lambda: adapted(llama(hidden_act="gelu")),
    "dropped attention": lambda: adapted(llama(attention_dropout=0.1)),
    "angles that depend on the length": lambda: adapted(
        llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})
    ),
    "another family": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=1, n_head=2)),
    "a base that trains": llama,
    "hooks": hooked,
    "merged": merged,
}


@pytest.mark.parametrize("make", UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_not_known_to_the_last_module_stays_with_peft(make):
    assert recognise(make()) is None


def test_an_embedding_on_the_host_gives_the_same_bits():
    model = adapted(llama())
    fused = recognise(model)
    assert not fused.embedding_on_host
    found = []
    for each in (fused, replace(fused, embedding_on_host=True)):
        model.zero_grad()
        losses, _ = each.token_losses(batch())
        losses.sum().backward()
        found.append([losses.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) > 1
    assert all(map(torch.equal, *found))
