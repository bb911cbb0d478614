"""A step without values; what whole steps cost is in test_steps.py."""

from __future__ import annotations

import pytest

from plait.training.fused import library_attention
from simulations.bench.dry_step import StepShape, dry_step


@pytest.mark.slow
def test_a_model_that_peft_computes_holds_no_logits_of_all_positions() -> None:
    shape = StepShape("llama-3.2-1b", 4, 1024, layers=2, fused=False)
    costs = dry_step(shape)
    assert costs.peak_bytes - costs.resident_bytes < 4 * 1024 * 128256 * 4, "all logits alone, in float32"


@pytest.mark.slow
def test_products_count_their_arithmetic() -> None:
    shape = StepShape("smollm2-135m", 2, 64, layers=1, rank=4)
    width, inner, keys, words, rows, counted = 576, 1536, 192, 49152, 2 * 64, 2 * 63
    incoming = width * width + 2 * width * keys
    matrices = incoming + width * width + 3 * width * inner
    # Forward and back; no gradient of the embedded tokens. Pairs and attention come on top.
    frozen = 2 * (rows * (2 * matrices - incoming) + 2 * counted * width * words)
    flops = sum(each.flops for each in dry_step(shape).operations)
    assert frozen < flops < 1.1 * frozen


@pytest.mark.slow
def test_chats_of_several_lengths_take_one_attention_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = StepShape("smollm2-135m", 5, 64, layers=2, rank=4, chats=True)
    assert shape.lengths == (12, 25, 38, 51, 64)
    together = dry_step(shape)
    names = [each.name for each in together.operations if "attn" in each.name]
    assert names == ["_varlen_attn"] * 2 + ["_varlen_attn_backward"] * 2
    assert together.inside == 0, "where the sequences lie is told before the first block"
    assert together.to_device == 8
    monkeypatch.setattr(library_attention, "varlen_attention", lambda: None)
    one_by_one = dry_step(shape)
    assert sum("flash_attention" in each.name for each in one_by_one.operations) == 2 * 2 * 5
    assert one_by_one.launches - together.launches > 2 * 4 * 10, "of each block and each further length"
