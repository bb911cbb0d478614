from __future__ import annotations

import pytest
import torch

from plait.training.fused.low_rank import Pair, Projection, inner_gradient, input_gradient, pair_gradients, project

D_IN, RANKS, D_OUTS, SCALES = 6, (2, 3, 0), (5, 4, 7), (0.5, 2.0, 1.0)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def projections(adapters: int) -> list[Projection]:
    found: list[Projection] = []
    for number, (rank, d_out, scale) in enumerate(zip(RANKS, D_OUTS, SCALES, strict=True)):
        A, B = random(adapters, rank, D_IN, seed=10 + number), random(adapters, d_out, rank, seed=20 + number)
        bias = random(d_out, seed=30 + number) if number else None
        found.append(Projection(random(d_out, D_IN, seed=number), bias, Pair(A, B, scale) if rank else None))
    return found


@pytest.mark.parametrize("rows", [(7,), (4, 4, 4), (3, 1, 5)], ids=["one", "equal", "unequal"])
def test_many_adapters_at_once_equal_dense_products_one_by_one(rows: tuple[int, ...]) -> None:
    given = projections(len(rows))
    x = random(sum(rows), D_IN, seed=40)
    grads = [random(sum(rows), d_out, seed=50 + d_out) for d_out in D_OUTS]
    leaf = x.clone().requires_grad_()
    factors = [
        (p.pair.A.clone().requires_grad_(), p.pair.B.clone().requires_grad_()) if p.pair else None for p in given
    ]
    expected: list[torch.Tensor] = []
    for projection, pair, scale in zip(given, factors, SCALES, strict=True):
        parts = [
            part @ (projection.weight + (scale * pair[1][at] @ pair[0][at] if pair else 0)).T
            for at, part in enumerate(leaf.split(list(rows)))
        ]
        expected.append(torch.cat(parts) + (0 if projection.bias is None else projection.bias))
    torch.autograd.backward(expected, grads)

    outs, inner = project(x, given, rows)
    for ours, theirs in zip(outs, expected, strict=True):
        torch.testing.assert_close(ours, theirs.detach())
    thin = inner_gradient(grads, given, rows)
    torch.testing.assert_close(input_gradient(grads, thin, given, rows), leaf.grad)
    wanted = [(True, True), (False, True), (True, True)]
    ours = pair_gradients(grads, thin, x, inner, given, rows, wanted=wanted)
    for gradient, pair, (want_A, _) in zip(ours, factors, wanted, strict=True):
        if pair is None:
            continue
        torch.testing.assert_close(gradient.B, pair[1].grad)
        if want_A:
            torch.testing.assert_close(gradient.A, pair[0].grad)
        else:
            assert gradient.A is None


def test_a_residual_is_added_with_the_bias() -> None:
    weight, bias, x, residual = (random(*shape, seed=7) for shape in ((4, D_IN), (4,), (3, D_IN), (3, 4)))
    (out,), inner = project(x, [Projection(weight, bias, None)], (3,), residual=residual)
    torch.testing.assert_close(out, x @ weight.T + bias + residual)
    assert inner is None
