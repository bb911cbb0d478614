from typing import Any

import pytest
import torch
from torch.nn import functional

from plait.training.fused import attention as fused_attention
from plait.training.fused.attention import Angles, Heads, Ragged, attend, attend_gradient, stretches
from tests.pretend.varlen import plain_varlen

pytestmark = pytest.mark.usefixtures("computed")


def angles(longest: int, width: int) -> Angles:
    frequencies = 1e4 ** -(torch.arange(0, width, 2) / width)
    angle = torch.outer(torch.arange(longest), frequencies).repeat(1, 2)
    return Angles(angle.cos(), angle.sin())


def turned(x: torch.Tensor, by: Angles) -> torch.Tensor:
    """RoPE as transformers writes it. x: (heads, length, width)."""
    cosine, sine = (part[: x.shape[1]] for part in (by.cosine, by.sine))
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat((-second, first), -1) * sine


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: Heads, lengths: list[int]) -> torch.Tensor:
    """Each sequence by itself, in torch."""
    by, outs = angles(max(lengths), heads.width), []
    for parts in zip(*(x.split(lengths) for x in (q, k, v)), strict=True):
        q_one, k_one, v_one = (x.unflatten(1, (-1, heads.width)).transpose(0, 1) for x in parts)
        group = heads.queries // heads.keys
        keys, values = (x.repeat_interleave(group, dim=0) for x in (turned(k_one, by), v_one))
        out = functional.scaled_dot_product_attention(turned(q_one, by), keys, values, is_causal=True)
        outs.append(out.transpose(0, 1).flatten(1))
    return torch.cat(outs)


@pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 8e-3)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize("lengths", [[5, 5, 3, 1, 9], [150], [16, 128, 300]], ids=str)
@pytest.mark.parametrize("heads", [Heads(4, 4, 8), Heads(6, 2, 16), Heads(9, 3, 64), Heads(2, 1, 80)], ids=str)
def test_each_sequence_attends_to_itself_alone_and_its_gradients_are_those_of_float64(heads, lengths, dtype, close):
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (
        torch.randn(sum(lengths), count * heads.width, generator=generator).to(dtype)
        for count in (heads.queries, heads.keys, heads.keys, heads.queries)
    )
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    expected = exact(leaves[0], leaves[1], leaves[2], heads, lengths)
    expected.backward(grad.double())

    where, by = stretches(lengths), angles(max(lengths), heads.width)
    out, graphs = attend(q, k, v, heads=heads, where=where, angles=by)
    ours = attend_gradient(grad, graphs or (q, k, v), heads=heads, where=where, angles=by)
    for found, wanted in ((out, expected), *zip(ours, (leaf.grad for leaf in leaves), strict=True)):
        assert found.dtype == dtype
        assert torch.norm(found.double() - wanted) <= close * torch.norm(wanted)


@pytest.mark.parametrize("heads", [Heads(4, 4, 8), Heads(6, 2, 16)], ids=str)
def test_sequences_of_several_lengths_take_one_call_and_its_gradients_are_those_of_float64(heads, monkeypatch):
    lengths = [5, 3, 3, 1, 9]
    q, k, v, grad = (
        torch.randn(sum(lengths), count * heads.width).double()
        for count in (heads.queries, heads.keys, heads.keys, heads.queries)
    )
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    expected = exact(leaves[0], leaves[1], leaves[2], heads, lengths)
    expected.backward(grad)

    calls: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(len(args[0]))
        return plain_varlen(*args, **kwargs)

    monkeypatch.setattr(fused_attention, "varlen_attention", lambda: counted)
    bounds = torch.tensor([0, 5, 8, 11, 12, 21], dtype=torch.int32)
    by = angles(max(lengths), heads.width)
    rows = torch.cat([torch.arange(length) for length in lengths])
    given: Any = {
        "heads": heads, "where": (Ragged(bounds, 9, 21),), "angles": Angles(by.cosine[rows], by.sine[rows])
    }  # fmt: skip
    out, graphs = attend(q, k, v, **given)
    ours = attend_gradient(grad, graphs, **given)
    assert calls == [21], "one call, and none again for the gradient"
    for found, wanted in ((out, expected), *zip(ours, (leaf.grad for leaf in leaves), strict=True)):
        assert torch.norm(found - wanted) <= 1e-6 * torch.norm(wanted), "angles are float32"


def test_large_scores_neither_overflow_nor_lie():
    heads, by = Heads(1, 1, 16), angles(20, 16)
    q, k, v = (100 * torch.randn(20, 16) for _ in range(3))
    out, _ = attend(q, k, v, heads=heads, where=stretches([20]), angles=by)
    expected = exact(q.double(), k.double(), v.double(), heads, [20])
    # A score near s is off by s * 2**-23 in float32, and a weight by as large a part of itself.
    score = float(q.norm(dim=1).max() * k.norm(dim=1).max()) / heads.width**0.5
    close = score * torch.finfo(torch.float32).eps / 4
    torch.testing.assert_close(out.double(), expected, rtol=close, atol=close * float(v.abs().max()))
