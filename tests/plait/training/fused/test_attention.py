from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from plait.training.fused import attention
from plait.training.fused.attention import Heads, Stretch, attend, attend_gradient, stretches


def test_neighbours_of_equal_length_are_one_stretch() -> None:
    assert stretches([4, 4, 3, 4]) == (Stretch(0, 2, 4), Stretch(8, 1, 3), Stretch(11, 1, 4))


@pytest.mark.parametrize("longest", [(512, 256), (512, 0), (0, 0)], ids=["kept", "computed anew", "library"])
@pytest.mark.parametrize("heads", [Heads(4, 4, 8), Heads(6, 2, 8)], ids=["all heads", "grouped"])
def test_each_sequence_attends_to_itself_alone(
    heads: Heads, longest: tuple[int, int], monkeypatch: pytest.MonkeyPatch, computed: str
) -> None:
    monkeypatch.setattr(attention, "_PLAIN_LONGEST", longest[0])
    monkeypatch.setattr(attention, "_KEPT_LONGEST", longest[1])
    lengths = [5, 5, 3, 1, 9]
    rows = sum(lengths)
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (
        torch.randn(rows, count * heads.width, generator=generator)
        for count in (heads.queries, heads.keys, heads.keys, heads.queries)
    )
    angles = (torch.ones(9, heads.width), torch.zeros(9, heads.width))
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    expected: list[torch.Tensor] = []
    first = 0
    for length in lengths:
        parts = [x[first : first + length].view(length, -1, heads.width).transpose(0, 1) for x in leaves]
        keys, values = (x.repeat_interleave(heads.queries // heads.keys, dim=0) for x in parts[1:])
        out = functional.scaled_dot_product_attention(parts[0], keys, values, is_causal=True)
        expected.append(out.transpose(0, 1).reshape(length, -1))
        first += length
    torch.cat(expected).backward(grad.double())

    where = stretches(lengths)
    out, kept = attend(q, k, v, heads=heads, where=where, angles=angles)
    torch.testing.assert_close(out.double(), torch.cat(expected).detach(), rtol=1e-4, atol=1e-5)
    ours = attend_gradient(grad, kept, heads=heads, where=where, angles=angles)
    for gradient, leaf in zip(ours, leaves, strict=True):
        torch.testing.assert_close(gradient.double(), leaf.grad, rtol=1e-4, atol=1e-5)
