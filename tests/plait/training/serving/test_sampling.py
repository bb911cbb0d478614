from __future__ import annotations

import collections

import pytest
import torch

from plait.training.serving.sampling import Drawer, Sampling

LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def counts(sampling: Sampling, draws: int = 4000) -> dict[int, float]:
    drawer = Drawer(sampling)
    found = collections.Counter(drawer.draw(LOGITS) for _ in range(draws))
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


def test_a_seed_repeats_and_no_seed_does_not() -> None:
    def text(seed: int | None) -> list[int]:
        drawer = Drawer(Sampling(seed=seed))
        return [drawer.draw(LOGITS) for _ in range(60)]

    assert text(3) == text(3) != text(4)
    assert text(-1) == text(-1)
    assert text(None) != text(None)
