import itertools

import numpy as np
import pytest
import torch

from plait.adapters import Task
from plait.features.attacks.training.likelihood import losses
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


def by_hand(table: np.ndarray, tokens: list[int], counted: int) -> float:
    logs = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    return float(np.mean([-logs[last][word] for last, word in list(itertools.pairwise(tokens))[-counted:]]))


def test_losses_are_means_over_the_tokens_that_count():
    model = Table()
    table = model.logits.detach().numpy().astype(np.float64)
    tokens = [[1, 4, 2, 9, 0, 3, 3, 10, 7, 5, 6, 8], [5, 5, 1], [2, 8, 8, 4, 6, 1, 0]]
    examples = [*map(example, tokens), example(tokens[0], counted=3)]
    expected = [by_hand(table, row, len(row) - 1) for row in tokens] + [by_hand(table, tokens[0], 3)]
    assert losses(model, examples, task=Task.CAUSAL_LM, pad_token=0, batch_size=3) == pytest.approx(expected, rel=1e-5)
