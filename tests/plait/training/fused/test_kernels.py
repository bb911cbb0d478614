from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from plait.training.fused.kernels import (
    absorb_logits_,
    accumulate_rescaled_,
    rms_norm,
    rms_norm_gradient,
    swiglu,
    swiglu_gradient,
)

pytestmark = pytest.mark.usefixtures("computed")

TYPES = pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float32, {"rtol": 2e-5, "atol": 2e-6}), (torch.bfloat16, {"rtol": 8e-3, "atol": 1e-2})]
)
WIDTHS = (1, 7, 16, 37, 576)


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def norm64(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


@TYPES
@pytest.mark.parametrize("width", WIDTHS)
def test_the_norm_and_its_gradient_are_those_of_float64(
    dtype: torch.dtype, close: dict[str, float], width: int
) -> None:
    x, grad, residual = (random(5, width, dtype=dtype, seed=seed) for seed in range(3))
    weight = random(width, dtype=dtype, seed=3)
    leaf = x.double().requires_grad_()
    expected = norm64(leaf, weight.double())
    expected.backward(grad.double())
    assert leaf.grad is not None
    torch.testing.assert_close(rms_norm(x, weight, 1e-5).double(), expected.detach(), **close)
    ours = rms_norm_gradient(x, weight, grad, residual, eps=1e-5)
    torch.testing.assert_close(ours.double(), leaf.grad + residual.double(), **close)


@TYPES
@pytest.mark.parametrize("width", WIDTHS)
def test_the_gated_product_and_its_gradients_are_those_of_float64(
    dtype: torch.dtype, close: dict[str, float], width: int
) -> None:
    gate, up, grad = (3 * random(5, width, dtype=dtype, seed=seed) for seed in range(3))
    leaves = [x.double().requires_grad_() for x in (gate, up)]
    expected = functional.silu(leaves[0]) * leaves[1]
    expected.backward(grad.double())
    out, *grads = swiglu_gradient(grad, gate, up)
    for ours in (out, swiglu(gate, up)):
        torch.testing.assert_close(ours.double(), expected.detach(), **close)
    for ours, leaf in zip(grads, leaves, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(ours.double(), leaf.grad, **close)


@TYPES
def test_a_running_softmax_ends_where_one_over_all_logits_but_the_correct_ones_does(
    dtype: torch.dtype, close: dict[str, float]
) -> None:
    logits = 5 * random(4, 50, dtype=dtype)
    targets = torch.tensor([0, 17, 33, 49])
    most, total, hit = torch.full((4,), -1e30), torch.zeros(4), torch.zeros(4)
    weighted, weights = torch.zeros(4, 6), random(50, 6, dtype=dtype, seed=1)
    for first in range(0, 50, 17):
        part = logits[:, first : first + 17].contiguous()
        rescale = absorb_logits_(part, targets, first=first, most=most, total=total, hit=hit)
        accumulate_rescaled_(weighted, part @ weights[first : first + 17], rescale)
    losses = functional.cross_entropy(logits.double(), targets, reduction="none")
    torch.testing.assert_close(functional.softplus(most + total.log() - hit).double(), losses, rtol=1e-5, atol=1e-5)
    others = logits.double().scatter(1, targets[:, None], -torch.inf)
    expected = others.softmax(-1) @ weights.double()
    torch.testing.assert_close((weighted / total[:, None]).double(), expected, **close)
