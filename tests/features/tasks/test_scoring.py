"""Scores of continuations are those of the model's own logits, alone or sharing a pass, fused or not."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from plait.errors import ConfigError
from plait.features.tasks.training.scoring import scores
from plait.training.bases import locate_base
from plait.training.fused import recognise

PAIRS = [
    ([5, 17, 300], [41]),
    # The same tokens but for the last one share a pass, wherever the continuation begins.
    ([5, 17, 300], [999]),
    ([5, 17], [300, 41]),
    ([8, 64, 5, 5, 1203], [7, 7, 12]),
    ([1], [2]),
]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    tiny = locate_base("tiny")
    base = AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=torch.float32, trust_remote_code=False)
    return base.eval().requires_grad_(False)


def by_hand(model: torch.nn.Module, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    logits = model(torch.tensor([context + continuation])).logits[0].double()
    rows = logits[len(context) - 1 : -1].log_softmax(dim=-1)
    wanted = torch.tensor(continuation)
    return float(rows.gather(1, wanted[:, None]).sum()), bool((rows.argmax(dim=1) == wanted).all())


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_scores_are_those_of_the_model_s_logits(model, fused: bool, batch_size: int, monkeypatch) -> None:
    assert recognise(model) is not None
    if not fused:
        monkeypatch.setattr("plait.features.tasks.training.scoring.recognise", lambda _: None)
    # Pieces of two rows of logits.
    monkeypatch.setattr("plait.features.tasks.training.scoring._MOST_LOGITS", 2 * model.config.vocab_size)
    with torch.no_grad():
        likeliest = [int(model(torch.tensor([context])).logits[0, -1].argmax()) for context, _ in PAIRS]
        pairs = [*PAIRS, *(([*context], [word]) for (context, _), word in zip(PAIRS, likeliest, strict=True))]
        expected = [by_hand(model, *pair) for pair in pairs]
    found = scores(model, pairs, pad_token=0, batch_size=batch_size, most_tokens=64)
    assert [each.likely for each in found] == pytest.approx([likely for likely, _ in expected], rel=1e-5)
    assert [each.is_greedy for each in found] == [greedy for _, greedy in expected]
    assert all(each.is_greedy for each in found[len(PAIRS) :])


def test_of_a_context_that_is_too_long_the_end_counts(model) -> None:
    context = list(range(3, 60))
    short, long = scores(model, [(context[-8:], [5]), (context, [5])], pad_token=0, batch_size=2, most_tokens=8)
    assert short == long
    with pytest.raises(ConfigError, match="a continuation has 9 tokens, expected at most 8"):
        scores(model, [([1], [2] * 9)], pad_token=0, batch_size=2, most_tokens=8)
