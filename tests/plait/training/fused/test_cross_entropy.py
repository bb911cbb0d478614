from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from plait.training.fused import cross_entropy
from plait.training.fused.cross_entropy import token_losses

EPS = 1e-5


@pytest.mark.parametrize("counted", [(0, 1, 2, 3, 4, 5), (1, 4)], ids=["all rows", "some rows"])
@pytest.mark.parametrize("words", [50, 2500])
def test_losses_and_gradient_equal_those_over_all_logits(
    counted: tuple[int, ...], words: int, monkeypatch: pytest.MonkeyPatch, computed: str
) -> None:
    monkeypatch.setattr(cross_entropy, "_SLICE_ELEMENTS", 1)  # slices of 1,024 words
    generator = torch.Generator().manual_seed(0)
    x, weight, norm = (torch.randn(*shape, generator=generator) for shape in ((6, 16), (words, 16), (16,)))
    rows = torch.tensor(counted)
    targets = torch.randint(0, words, (len(rows),), generator=generator)
    each = torch.randn(len(rows), generator=generator)

    leaf = x.double().requires_grad_()
    hidden = leaf * torch.rsqrt(leaf.square().mean(-1, keepdim=True) + EPS) * norm.double()
    expected = functional.cross_entropy(hidden[rows] @ weight.double().T, targets, reduction="none")
    expected.backward(each.double())
    assert leaf.grad is not None

    ours = x.clone().requires_grad_()
    losses = token_losses(ours, norm, weight, targets, rows, eps=EPS)
    losses.backward(each)
    assert ours.grad is not None
    torch.testing.assert_close(losses.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad.double(), leaf.grad, rtol=1e-4, atol=1e-5)


def test_where_no_gradient_is_asked_for_the_losses_are_the_same(computed: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(3, 8, generator=generator), torch.randn(20, 8, generator=generator)
    rows, targets = torch.arange(3), torch.tensor([3, 0, 19])
    with torch.no_grad():
        judged = token_losses(x, torch.ones(8), weight, targets, rows, eps=EPS)
    trained = token_losses(x.requires_grad_(), torch.ones(8), weight, targets, rows, eps=EPS)
    assert torch.equal(judged, trained.detach())
