import pytest
import torch
from torch.nn import functional

from plait.training.fused import kernels
from plait.training.fused.kernels import (
    absorb_logits_,
    accumulate_rescaled_,
    rms_norm,
    rms_norm_gradient,
    swiglu,
    swiglu_gradient,
    token_losses,
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
def test_the_norm_and_its_gradient_are_those_of_float64(dtype, close, width):
    x, grad, residual = (random(5, width, dtype=dtype, seed=seed) for seed in range(3))
    weight = random(width, dtype=dtype, seed=3)
    leaf = x.double().requires_grad_()
    expected = norm64(leaf, weight.double())
    expected.backward(grad.double())
    torch.testing.assert_close(rms_norm(x, weight, 1e-5).double(), expected.detach(), **close)
    ours = rms_norm_gradient(x, weight, grad, residual, eps=1e-5)
    torch.testing.assert_close(ours.double(), leaf.grad + residual.double(), **close)


@TYPES
@pytest.mark.parametrize("width", WIDTHS)
def test_the_gated_product_and_its_gradients_are_those_of_float64(dtype, close, width):
    gate, up, grad = (3 * random(5, width, dtype=dtype, seed=seed) for seed in range(3))
    leaves = [x.double().requires_grad_() for x in (gate, up)]
    expected = functional.silu(leaves[0]) * leaves[1]
    expected.backward(grad.double())
    out, *grads = swiglu_gradient(grad, gate, up)
    for ours in (out, swiglu(gate, up)):
        torch.testing.assert_close(ours.double(), expected.detach(), **close)
    for ours, leaf in zip(grads, leaves, strict=True):
        torch.testing.assert_close(ours.double(), leaf.grad, **close)


@TYPES
def test_a_running_softmax_ends_where_one_over_all_logits_but_the_correct_ones_does(dtype, close):
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


@pytest.mark.parametrize("counted", [(0, 1, 2, 3, 4, 5), (1, 4)], ids=["all rows", "some rows"])
@pytest.mark.parametrize("words", [50, 2500])
def test_losses_and_gradient_equal_those_over_all_logits(counted, words, monkeypatch):
    monkeypatch.setattr(kernels, "SLICE_ELEMENTS_ON_CPU", 1)  # slices of 1,024 words
    generator = torch.Generator().manual_seed(0)
    x, weight, norm = (torch.randn(*shape, generator=generator) for shape in ((6, 16), (words, 16), (16,)))
    rows = torch.tensor(counted)
    targets = torch.randint(0, words, (len(rows),), generator=generator)
    each = torch.randn(len(rows), generator=generator)

    leaf = x.double().requires_grad_()
    hidden = leaf * torch.rsqrt(leaf.square().mean(-1, keepdim=True) + 1e-5) * norm.double()
    expected = functional.cross_entropy(hidden[rows] @ weight.double().T, targets, reduction="none")
    expected.backward(each.double())

    ours = x.clone().requires_grad_()
    losses = token_losses(ours, norm, weight, targets, rows, eps=1e-5)
    losses.backward(each)
    torch.testing.assert_close(losses.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad.double(), leaf.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [3.0, 0.2, 7e-4, 5e-7])
def test_the_gradient_of_a_small_loss_is_as_exact_as_that_of_a_large_one(loss):
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(8192, 64, generator=generator).bfloat16()
    targets = torch.randint(0, 8192, (16,), generator=generator)
    # Along the target's own row of the head, as far as the loss asks for.
    along = weight[targets].double()
    low, high = torch.zeros(16, 1, dtype=torch.double), torch.full((16, 1), 4.0, dtype=torch.double)
    for _ in range(40):
        middle = (low + high) / 2
        is_large = functional.cross_entropy(middle * along @ weight.double().T, targets, reduction="none") > loss
        low, high = torch.where(is_large[:, None], middle, low), torch.where(is_large[:, None], high, middle)
    hidden = (low * along).bfloat16()

    leaf = hidden.double().requires_grad_()
    expected = functional.cross_entropy(leaf @ weight.double().T, targets, reduction="none")
    expected.sum().backward()
    losses, gradient = kernels._losses(hidden, weight, targets, slice_elements=1 << 14, with_gradient=True)
    error = (gradient - leaf.grad).norm(dim=1) / leaf.grad.norm(dim=1)
    # Logits are rounded to bfloat16.
    off = (losses - expected.detach()).abs() / expected.detach()
    assert off.max() < 0.2
    assert error.max() < 0.2


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_logit_that_is_no_number_shows_in_the_loss(bad):
    hidden, weight = torch.ones(2, 8), torch.ones(20, 8)
    weight[3, 0] = bad
    for target in (3, 5):
        losses, _ = kernels._losses(
            hidden, weight, torch.tensor([target] * 2), slice_elements=1 << 14, with_gradient=True
        )
        assert not losses.isfinite().any()
