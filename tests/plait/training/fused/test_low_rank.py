import pytest
import torch

from plait.training.fused.block import Projection, input_gradient, pair_gradients, project
from plait.training.fused.thin import LowRankPair

# Whole vectors and what is left over from them, ranks of one, two and three times eight and in between.
D_IN, RANKS, D_OUTS, SCALES = 70, (8, 19, 0, 13), (40, 64, 7, 33), (0.5, 2.0, 1.0, 1.5)
TYPES = pytest.mark.parametrize(
    ("dtype", "close"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1.5e-2)],
    ids=["float64", "float32", "bfloat16"],
)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def projections(adapters: int, dtype: torch.dtype) -> list[Projection]:
    found: list[Projection] = []
    for number, (rank, d_out, scale) in enumerate(zip(RANKS, D_OUTS, SCALES, strict=True)):
        A, B = random(adapters, rank, D_IN, seed=10 + number), random(adapters, d_out, rank, seed=20 + number)
        pair = LowRankPair(A.to(dtype), B.to(dtype), scale) if rank else None
        bias = random(d_out, seed=30 + number).to(dtype) if number else None
        found.append(Projection(random(d_out, D_IN, seed=number).to(dtype), bias, pair))
    return found


@TYPES
@pytest.mark.parametrize("rows", [(19,), (9, 9, 9), (17, 1, 10)], ids=["one", "equal", "unequal"])
def test_many_adapters_at_once_equal_dense_products_one_by_one(rows, dtype, close, computed):
    given = projections(len(rows), dtype)
    x = random(sum(rows), D_IN, seed=40).to(dtype)
    grads = [random(sum(rows), d_out, seed=50 + d_out).to(dtype) for d_out in D_OUTS]
    leaf = x.to(torch.float64, copy=True).requires_grad_()
    factors = [
        (p.pair.A.to(torch.float64, copy=True).requires_grad_(), p.pair.B.to(torch.float64, copy=True).requires_grad_())
        if p.pair
        else None
        for p in given
    ]
    expected: list[torch.Tensor] = []
    for projection, pair, scale in zip(given, factors, SCALES, strict=True):
        parts = [
            part @ (projection.weight.double() + (scale * pair[1][at] @ pair[0][at] if pair else 0)).T
            for at, part in enumerate(leaf.split(list(rows)))
        ]
        expected.append(torch.cat(parts) + (0 if projection.bias is None else projection.bias.double()))
    torch.autograd.backward(expected, [grad.double() for grad in grads])

    def check(ours: torch.Tensor | None, theirs: torch.Tensor | None) -> None:
        assert ours.dtype == dtype
        torch.testing.assert_close(
            ours.double(), theirs.detach(), rtol=0, atol=close * float(theirs.detach().abs().max())
        )

    outs, inner = project(x, given, rows)
    for ours, theirs in zip(outs, expected, strict=True):
        check(ours, theirs)
    grad_x, thin = input_gradient(grads, given, rows)
    check(grad_x, leaf.grad)
    none, alone = input_gradient(grads, given, rows, wanted=False)
    assert none is None
    assert torch.equal(alone, thin)
    wanted = [(True, True), (False, True), (True, True), (True, False)]
    found = pair_gradients(grads, thin, x, inner, given, rows, wanted=wanted)
    for gradient, pair, (want_A, want_B) in zip(found, factors, wanted, strict=True):
        for ours, factor, want in zip(gradient, pair or (None, None), (want_A, want_B), strict=True):
            if factor is None or not want:
                assert ours is None
            else:
                check(ours, factor.grad)
