import itertools
import math

import numpy as np
import pytest
import torch

from plait.adapters import Task
from plait.features.attacks.training.likelihood import likelihoods
from plait.training.examples import IGNORED, Example

WORDS = 11


class Table(torch.nn.Module):
    """Predicts the next word from the last one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.randn(WORDS, WORDS, generator=torch.Generator().manual_seed(4)) * 3)

    def forward(self, input_ids, attention_mask, use_cache):
        return type("Output", (), {"logits": self.logits[input_ids]})


def example(tokens: list[int], *, counted: int | None = None) -> Example:
    ids = np.asarray(tokens, np.int32)
    return Example(
        ids, np.where(np.arange(len(ids)) >= len(ids) - (counted or len(ids)), ids, IGNORED).astype(np.int32)
    )


def by_hand(table: np.ndarray, tokens: list[int], counted: int) -> tuple[float, float]:
    logs = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    losses, zs = [], []
    for last, word in list(itertools.pairwise(tokens))[-counted:]:
        p = np.exp(logs[last])
        mean = (p * logs[last]).sum()
        sigma = math.sqrt((p * (logs[last] - mean) ** 2).sum())
        losses.append(-logs[last][word])
        zs.append((logs[last][word] - mean) / sigma)
    zs.sort()
    return float(np.mean(losses)), float(np.mean(zs[: max(1, math.ceil(0.2 * len(zs)))]))


def test_loss_and_min_k_are_those_of_the_paper_s_formulas():
    model = Table()
    table = model.logits.detach().numpy().astype(np.float64)
    tokens = [[1, 4, 2, 9, 0, 3, 3, 10, 7, 5, 6, 8], [5, 5, 1], [2, 8, 8, 4, 6, 1, 0]]
    found = likelihoods(
        model, [*map(example, tokens), example(tokens[0], counted=3)], task=Task.CAUSAL_LM, pad_token=0, batch_size=3
    )
    expected = [by_hand(table, row, len(row) - 1) for row in tokens] + [by_hand(table, tokens[0], 3)]
    assert [each.loss for each in found] == pytest.approx([loss for loss, _ in expected], rel=1e-5)
    assert [each.min_k for each in found] == pytest.approx([z for _, z in expected], rel=1e-4)


def test_a_prediction_without_any_doubt_is_no_division_by_zero():
    model = Table()
    with torch.no_grad():
        model.logits.copy_(torch.eye(WORDS) * 1e4)
    found = likelihoods(model, [example([3, 3, 3])], task=Task.CAUSAL_LM, pad_token=0, batch_size=1)
    assert found[0].loss == 0.0
    assert math.isfinite(found[0].min_k)
