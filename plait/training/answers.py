"""What a client's held-out text and its model's answers add to a run's metrics (`plait.rounds.metrics`).

Answers are the likeliest, to at most `MOST_ANSWERS` prompts and no longer than the longest reply that the records have.
ROUGE-L is rouge-score's, Google's own, on words of any alphabet; token F1 and exact match are those of SQuAD (arXiv
1606.05250) on the same words and on the text as it is.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from itertools import starmap
from types import SimpleNamespace
from typing import Any, cast

from torch import nn

from plait.data import RecordKind
from plait.errors import DataError, PartError
from plait.rounds.evaluation import SequenceLosses, Sums, together
from plait.rounds.metrics import RunMetrics, Tally, check_package
from plait.training.completions import Grader, asked_of, last_reply
from plait.training.examples import IGNORED, Example, Tokenizer, prompt_tokens, spread
from plait.training.generate import Sampling, Wanted, context_of, generate, writer_of
from plait.training.own_functions import checker_named

MOST_ANSWERS = 32
"""Prompts of one client that are answered in an evaluation."""
_MOST_TOKENS = 256  # of an answer
_WORD = re.compile(r"[^\W_]+")


def check_records(metrics: RunMetrics, kind: RecordKind) -> None:
    """Refuse metrics that these records, or this installation, cannot have."""
    if metrics.of_answers and kind not in (RecordKind.PROMPT, RecordKind.CHAT):
        names = ", ".join(metrics.of_answers)
        raise DataError(f"data has {kind.value} records, but {names} need prompts with completions, or messages")
    if "rouge_l" in metrics.names:
        check_package("rouge_score", "rouge-score", ("rouge_l",))


def sums_of_held_out(
    losses: SequenceLosses,
    metrics: RunMetrics,
    model: nn.Module,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    *,
    seq_len: int,
) -> Sums:
    """What a language model's held-out examples add up, with their losses known."""
    sums: Sums = {}
    if Tally.TEXT in metrics.places:
        size_bytes = sum(len(_text(tokenizer, example.labels[1:]).encode()) for example in examples)
        sums = metrics.of_text(math.fsum(losses.losses), losses.tokens, size_bytes)
    if metrics.of_answers:
        sums = together((sums, _of_answers(metrics, model, examples, tokenizer, seq_len)))
    return sums


def _of_answers(
    metrics: RunMetrics, model: nn.Module, examples: Sequence[Example], tokenizer: Tokenizer, seq_len: int
) -> Sums:
    began, asked = time.perf_counter(), [last_reply(each) for each in spread(examples, MOST_ANSWERS)]
    whole = writer_of(model)
    context = min(seq_len, context_of(whole) or seq_len)
    longest = min(_MOST_TOKENS, max(int((each.labels != IGNORED).sum()) for each in asked))
    prompts = [prompt_tokens(each) for each in asked]
    wanted = [Wanted(prompt, max(1, min(longest, context - len(prompt))), 0) for prompt in prompts]
    made = generate(whole, tokenizer, wanted, Sampling())
    texts = [
        (_text(tokenizer, answer), _text(tokenizer, each.labels)) for answer, each in zip(made, asked, strict=True)
    ]
    scores = {
        name: math.fsum(starmap(_OWN[name], texts)) if name in _OWN else _checked(name, asked, made, tokenizer)
        for name in metrics.of_answers
    }
    return metrics.of_scores(scores, len(asked), time.perf_counter() - began)


def _checked(name: str, asked: Sequence[Example], made: Sequence[Sequence[int]], tokenizer: Tokenizer) -> float:
    """The sum of what a user's own checker gives; an answer at which it fails has none."""
    grader = Grader(checker_named(name), name, tokenizer)
    found = [grader.grade(asked_of(each), [answer])[0] or 0.0 for each, answer in zip(asked, made, strict=True)]
    grader.check()
    if not all(0 <= each <= 1 for each in found):
        raise PartError(f"metric '{name}' gave {min(found):g} to {max(found):g}, expected numbers from 0 to 1")
    return math.fsum(found)


def _text(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    counted = [int(token) for token in tokens if token != IGNORED]
    return cast("Any", tokenizer).decode(counted, skip_special_tokens=True)


def _exact_match(answer: str, right: str) -> float:
    return float(answer.strip() == right.strip())


def _token_f1(answer: str, right: str) -> float:
    given, expected = words(answer), words(right)
    both = sum((Counter(given) & Counter(expected)).values())
    return 2 * both / (len(given) + len(expected)) if given or expected else 1.0


def _rouge_l(answer: str, right: str) -> float:
    tokenizer = SimpleNamespace(tokenize=words)
    scorer: Any = import_module("rouge_score.rouge_scorer").RougeScorer(["rougeL"], tokenizer=tokenizer)
    return float(scorer.score(right, answer)["rougeL"].fmeasure)


def words(text: str) -> list[str]:
    """The words of a text in lower case: letters and digits of any alphabet."""
    return _WORD.findall(text.lower())


# From an answer and the record's own to a number from 0 to 1.
_OWN: Mapping[str, Callable[[str, str], float]] = {
    "exact_match": _exact_match,
    "token_f1": _token_f1,
    "rouge_l": _rouge_l,
}
