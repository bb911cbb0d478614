"""The loss of models that PEFT computes, in slices: equal to that of all logits at once."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from plait.training import model_losses
from plait.training.examples import IGNORED, Example
from plait.training.losses import BatchLoss
from plait.training.model_losses import ModelLosses

WORDS = 50
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, num_key_value_heads=1, **SMALL))


def gemma(cap: float | None) -> PreTrainedModel:
    config = Gemma2Config(
        vocab_size=WORDS, num_key_value_heads=1, head_dim=8, final_logit_softcapping=cap, **SMALL,
        attn_implementation="eager",
    )  # fmt: skip
    return Gemma2ForCausalLM(config)


def gemma3() -> PreTrainedModel:
    """Sliding windows shorter than the longest sequence, but for every second layer."""
    config = Gemma3TextConfig(
        vocab_size=WORDS, num_key_value_heads=1, head_dim=8, sliding_window=8, attn_implementation="eager",
        layer_types=["sliding_attention", "full_attention"], **SMALL,
    )  # fmt: skip
    return Gemma3ForCausalLM(config)


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0,
                                      attn_pdrop=0))  # fmt: skip


DORA = LoraConfig(r=4, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM")
MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "dora": lambda: get_peft_model(llama(), DORA),
    "lora on the head": lambda: get_peft_model(llama(), LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM")),
    "a learned prompt": lambda: get_peft_model(
        llama(), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    ),
    "gpt2": lambda: get_peft_model(
        gpt2(), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    ),
    "gemma 2": lambda: get_peft_model(gemma(None), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")),
    "gemma 3": lambda: get_peft_model(gemma3(), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")),
}


def batch() -> list[Example]:
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, WORDS, length).astype(np.int32) for length in (12, 5, 30)]
    return [Example(row, np.where(generator.random(len(row)) < 0.4, IGNORED, row).astype(np.int32)) for row in rows]


@pytest.fixture
def sliced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Slices of seven rows, whatever the batch; the rows of every slice, and of every product with a frozen head."""
    monkeypatch.setattr(model_losses, "MOST_LOGITS", 0)
    monkeypatch.setattr(model_losses, "SLICE_ELEMENTS_ON_GPU", 7 * WORDS)
    honest, seen = model_losses.SlicedHead._losses, list[int]()

    def counted(self: model_losses.SlicedHead, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(len(hidden))
        return honest(self, hidden, targets)

    monkeypatch.setattr(model_losses.SlicedHead, "_losses", counted)
    frozen = model_losses.head_losses

    def at_once(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(-len(hidden))
        return frozen(hidden, weight, targets)

    monkeypatch.setattr(model_losses, "head_losses", at_once)
    return seen


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    loss.backward()
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_losses_and_gradients_are_those_of_all_logits_at_once(make, sliced):
    model = make().train()
    loss = BatchLoss(model)
    ours = loss(batch())
    counted = sum(int((each.labels[1:] != IGNORED).sum()) for each in batch())
    trains_head = any("lm_head" in name and own.requires_grad for name, own in model.named_parameters())
    assert max(sliced) == 7 if trains_head else sliced == [-counted]
    theirs = ModelLosses(model).total(batch())
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    torch.testing.assert_close(gradients(model, ours), gradients(model, theirs), rtol=1e-4, atol=1e-6)
    by_sequence = loss.by_sequence(batch())
    assert sum(by_sequence) == pytest.approx(theirs.item(), rel=1e-6)
    assert len(by_sequence) == len(batch())


def test_a_head_whose_result_the_model_changes_is_not_sliced(sliced):
    model = get_peft_model(gemma(0.5), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")).train()
    ours = BatchLoss(model)(batch())
    theirs = ModelLosses(model).total(batch())
    assert ours.item() == theirs.item()
    assert not sliced
