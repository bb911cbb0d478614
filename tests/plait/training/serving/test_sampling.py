from __future__ import annotations

import collections
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from plait.training.serving.sampling import Drawer, Sampling, next_tokens

LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def counts(sampling: Sampling, draws: int = 4000) -> dict[int, float]:
    drawer = Drawer(sampling)
    found = collections.Counter(next_tokens(LOGITS.expand(draws, 4), [drawer] * draws))
    return {token: found[token] / draws for token in range(4)}


def test_draws_follow_the_probabilities() -> None:
    for token, share in counts(Sampling(seed=0)).items():
        assert share == pytest.approx(float(LOGITS[token].exp()), abs=0.03)


def test_a_low_temperature_sharpens_them() -> None:
    # p^(1/T), normalised: T = 1/2 squares.
    squares = (LOGITS.exp() ** 2) / (LOGITS.exp() ** 2).sum()
    for token, share in counts(Sampling(temperature=0.5, seed=0)).items():
        assert share == pytest.approx(float(squares[token]), abs=0.03)


def test_top_p_leaves_the_likeliest_that_reach_it() -> None:
    shares = counts(Sampling(top_p=0.6, seed=0))
    assert shares[2] == shares[3] == 0
    assert shares[0] == pytest.approx(0.5 / 0.8, abs=0.03)


def test_a_tiny_top_p_leaves_the_likeliest() -> None:
    assert counts(Sampling(top_p=1e-9, seed=0), 20)[0] == 1


def test_temperature_zero_takes_the_likeliest() -> None:
    assert counts(Sampling(temperature=0), 20)[0] == 1


@pytest.mark.parametrize("top_p", [1.0, 0.5])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_give_no_token(bad: float, top_p: float) -> None:
    logits = torch.stack([LOGITS, torch.tensor([0.0, bad, 0.0, 0.0])])
    with pytest.raises(ValueError, match="not finite"):
        next_tokens(logits, [Drawer(Sampling(top_p=top_p, seed=0))] * 2)


def test_a_seed_repeats_and_no_seed_does_not() -> None:
    def text(seed: int | None) -> list[int]:
        drawer = Drawer(Sampling(seed=seed))
        return next_tokens(LOGITS.expand(60, 4), [drawer] * 60)

    assert text(3) == text(3) != text(4)
    assert text(-1) == text(-1)
    assert text(None) != text(None)


def test_a_row_gets_the_same_tokens_whatever_else_is_in_the_batch() -> None:
    kinds = [Sampling(temperature=0), Sampling(seed=1), Sampling(0.7, 0.8, seed=2), Sampling(1.3, 0.5, seed=3)]
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, len(kinds), 300, generator=generator)
    alone = []
    for row, sampling in enumerate(kinds):
        drawer = Drawer(sampling)
        alone.append([next_tokens(each[row : row + 1], [drawer])[0] for each in logits])
    drawers = [Drawer(sampling) for sampling in kinds]
    together = [next_tokens(each, drawers) for each in logits]
    assert [list(column) for column in zip(*together, strict=True)] == alone
    assert len(set(alone[1])) > 5


def test_the_rows_of_a_batch_are_drawn_at_once_and_read_once() -> None:
    class Counted(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.on_all: list[str] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
            # A row's chance is drawn on the host, for its own seed.
            if any(isinstance(each, torch.Tensor) and each.dim() for each in args):
                self.on_all.append(str(function))
            return function(*args, **(kwargs or {}))

    found: list[list[str]] = []
    for rows in (2, 32):
        drawers = [Drawer(Sampling(top_p=0.9, seed=row)) for row in range(rows)]
        with Counted() as counted:
            assert len(next_tokens(LOGITS.repeat(rows, 1), drawers)) == rows
        found.append(counted.on_all)
    assert found[0] == found[1], "a row more is no operation more"


def test_the_end_of_the_distribution_is_a_token_with_a_chance() -> None:
    class Last(Drawer):
        def chance(self) -> float:
            return 1 - 2**-53

    logits = torch.tensor([[1.0, 2.0, 0.5, -torch.inf, -torch.inf]])
    for sampling in (Sampling(), Sampling(top_p=0.9)):
        (token,) = next_tokens(logits, [Last(sampling)])
        assert token in (0, 1, 2)
