from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from gguf import quants

from plait.features.few_bits.training.formats import FORMATS, NormalFloat, Rows, eight_bits, five_bits

TYPES = (torch.float32, torch.bfloat16)
# Where each format has its float16 numbers.
HALVES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,)}


def weights(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_every_value_is_the_nearest_of_its_block_s_sixteen(computed: str, dtype: torch.dtype) -> None:
    one = NormalFloat.of([torch.ones(64)], (1, 64), torch.float32)
    every = replace(one, codes=17 * torch.arange(16, dtype=torch.uint8).repeat(2))
    values = every.unpacked()[0, :32:2].double()
    assert values[0] == -1, computed
    assert values[15] == 1
    assert values.diff().min() > 0.07
    w = weights(33, 100, dtype=dtype)
    packed = NormalFloat.of(w.flatten().split(640), w.shape, dtype)
    padded = torch.cat((w.flatten(), w.new_zeros(-w.numel() % 64))).view(-1, 64).double()
    largest = padded.abs().amax(dim=1, keepdim=True)
    nearest = values[(padded[:, :, None] / largest[:, :, None] - values).abs().argmin(dim=2)] * largest
    got = packed.unpacked().double()
    assert got.shape == w.shape
    # The scales are rounded too: to at most 1/64 of their own spread.
    torch.testing.assert_close(got.flatten(), nearest.flatten()[: w.numel()], rtol=0.02, atol=1e-6)
    assert packed.unpacked().dtype == dtype


@pytest.mark.parametrize("dtype", TYPES)
def test_bitsandbytes_holds_the_same_codes_and_nearly_all_the_same_values(computed: str, dtype: torch.dtype) -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    w = weights(1024, 576, dtype=dtype)
    codes, state = functional.quantize_4bit(w, quant_type="nf4", compress_statistics=True)
    ours = NormalFloat.of([w], w.shape, dtype)
    assert torch.equal(ours.codes, codes[:, 0]), computed
    assert torch.equal(ours.outer, state.state2.absmax)
    # Of two numbers that are about equally near to a scale it takes the other one now and then.
    values, theirs = ours.unpacked(), functional.dequantize_4bit(codes, state)
    assert (values != theirs).float().mean() < 0.01
    same = (ours.scales == state.absmax).repeat_interleave(64).view(w.shape)
    assert torch.equal(values[same], theirs[same])


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_of_gguf_files_have_the_values_that_gguf_reads(computed: str, name: str) -> None:
    form, generator = FORMATS[name], np.random.default_rng(0)
    raw = generator.integers(0, 256, (6, 3 * form.nbytes), dtype=np.uint8)
    for at in HALVES[name]:
        halves = generator.normal(0, 0.01, len(raw) * 3).astype(np.float16)
        raw.reshape(-1, form.nbytes)[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
    raw.reshape(-1, form.nbytes)[0, HALVES[name][0] : HALVES[name][0] + 2] = (3, 0)  # below the least normal float16
    expected = torch.from_numpy(quants.dequantize(raw, gguf.GGMLQuantizationType[name]).astype(np.float32))
    rows = Rows(torch.from_numpy(raw), form, torch.float32)
    torch.testing.assert_close(rows.unpacked(), expected, rtol=1e-6, atol=1e-6, msg=computed)
    numbers = torch.tensor([5, 0, 0])
    assert torch.equal(rows.chosen(numbers), rows.unpacked()[numbers])
    assert torch.equal(rows.between(2, 4).unpacked(), rows.unpacked()[2:4])
    in_half = Rows(rows.held, form, torch.bfloat16).unpacked()
    torch.testing.assert_close(in_half.float(), expected, rtol=2**-8, atol=1e-6)


def test_five_bits_are_the_blocks_that_gguf_writes(computed: str) -> None:
    w = weights(8, 96)
    w[0, :32] = 0
    rows = five_bits(w.flatten().split(64), w.shape, torch.float32)
    theirs = torch.from_numpy(quants.quantize(w.numpy(), gguf.GGMLQuantizationType.Q5_0))
    assert (rows.held != theirs).float().mean() < 0.01, computed  # a value between two numbers may go to either
    steps = w.view(-1, 32).abs().amax(dim=1, keepdim=True) / 16
    # At the end that the largest value is not at, one number is missing.
    assert ((rows.unpacked() - w).view(-1, 32).abs() <= 1.01 * steps).all()
    assert (rows.unpacked() - w).norm() < 0.06 * w.norm()
    assert rows.held.numel() == w.numel() * 22 // 32


def test_eight_bits_are_the_blocks_that_gguf_writes(computed: str) -> None:
    w = weights(8, 96)
    w[0, :32] = 0
    rows = eight_bits(w.flatten().split(64), w.shape, torch.float32)
    theirs = torch.from_numpy(quants.quantize(w.numpy(), gguf.GGMLQuantizationType.Q8_0))
    assert (rows.held != theirs).float().mean() < 0.01, computed
    steps = w.view(-1, 32).abs().amax(dim=1, keepdim=True) / 127
    # Half a step, and what float16 rounds the step by, 127 times.
    assert ((rows.unpacked() - w).view(-1, 32).abs() <= 0.57 * steps).all()
    assert rows.held.numel() == w.numel() * 34 // 32


@pytest.mark.parametrize("number", [-1, 8])
def test_a_row_that_is_not_there_is_refused(computed: str, number: int) -> None:
    rows = five_bits([weights(8, 32)], (8, 32), torch.float32)
    with pytest.raises(IndexError):
        rows.chosen(torch.tensor([0, number]))
    assert torch.equal(rows.chosen(torch.tensor([7, 1, 0])[::2]), rows.unpacked()[[7, 0]]), computed
