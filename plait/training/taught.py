"""How clients learn from preferences and from a reward. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from plait.choice import parse_choice
from plait.data import Record, RecordKind
from plait.objectives.grpo import rewarded
from plait.objectives.named import formula_named
from plait.training.conversations import conversation, converse, of_each
from plait.training.examples import IGNORED, Example, Tokenizer
from plait.training.teaching import Teaching

if TYPE_CHECKING:
    from torch import nn

    from plait.objectives.formula import Formula
    from plait.objectives.grpo import GRPO
    from plait.rounds.evaluation import SequenceLosses
    from plait.training.completions import RewardLesson
    from plait.training.lesson import Taught
    from plait.training.preferences import PreferenceLesson
    from plait.training.teaching import Judge
    from plait.wire.settings import Settings


class Preferences(Teaching):
    """A formula of preferences, with what is known of the client's preferences under the base."""

    kinds = frozenset({RecordKind.PREFERENCE})

    def __init__(self, text: str) -> None:
        self.expected = f"prompt, chosen and rejected for objective '{parse_choice(text)[0]}'"
        self._formula = cast("Formula", formula_named(text))
        self._references: dict[bytes, tuple[float, ...]] = {}

    def examples(
        self, records: Sequence[Record], kind: RecordKind, tokenizer: Tokenizer, seq_len: int
    ) -> list[Example]:
        """Both replies of each record."""
        del kind
        return of_each(records, lambda record: _judged(record, tokenizer, seq_len))

    def lesson(self, taught: Taught) -> PreferenceLesson:
        """See `PreferenceLesson`."""
        from plait.training.preferences import PreferenceLesson

        return PreferenceLesson(taught, self._formula, self._references)

    def judge(self, model: nn.Module, examples: Sequence[Example], *, pad_token: int) -> Judge:
        """By the formula's loss, and the reward by which the chosen reply leads."""
        from plait.training.preferences import PreferenceLoss, learn_references

        learn_references(self._references, model, examples, pad_token=pad_token)
        return PreferenceLoss(model, self._formula, self._references, pad_token=pad_token).by_example


class Rewards(Teaching):
    """A reward of the user's own; one example counts as one prompt, whatever is sampled."""

    kinds = frozenset({RecordKind.PROMPT, RecordKind.CHAT})
    expected = "prompts with completions, or messages, for objective 'grpo'"

    def __init__(self, text: str) -> None:
        self._formula = cast("GRPO", formula_named(text))
        self._how = rewarded(text)

    def check(self) -> None:
        """Find the reward."""
        from plait.training.reward import reward_named

        reward_named(self._how.reward)

    def examples(
        self, records: Sequence[Record], kind: RecordKind, tokenizer: Tokenizer, seq_len: int
    ) -> list[Example]:
        """Prompts, with the completion that the record has."""
        return [Example.of_sides(_last_reply(each), None) for each in converse(records, kind, tokenizer, seq_len)]

    def lesson(self, taught: Taught) -> RewardLesson:
        """See `RewardLesson`."""
        from plait.training.completions import RewardLesson

        return RewardLesson(taught, self._formula, self._how)

    def measured(
        self, model: nn.Module, examples: Sequence[Example], settings: Settings, tokenizer: Tokenizer
    ) -> SequenceLosses:
        """Minus the reward of one completion of each; one that has none counts for nothing."""
        from plait.training.completions import measured

        return measured(model, examples, self._how, seq_len=settings.seq_len, tokenizer=tokenizer)


def _judged(record: Record, tokenizer: Tokenizer, seq_len: int) -> Example | None:
    """A preference; None if one of its replies begins beyond the sequence length, or both are cut to the same."""
    chosen, rejected = (
        conversation(record.messages, reply, tokenizer, seq_len) for reply in (record.chosen, record.rejected)
    )
    if chosen is None or rejected is None or chosen.digest == rejected.digest:
        return None
    return Example.of_sides(chosen, rejected)


def _last_reply(example: Example) -> Example:
    """The example with labels on the last run of tokens that count: the assistant's last turn."""
    counts = example.labels != IGNORED
    last = len(counts) - int(counts[::-1].argmax())
    before = np.flatnonzero(~counts[:last])
    first = int(before[-1]) + 1 if len(before) else 0
    labels = np.full_like(example.labels, IGNORED)
    labels[first:last] = example.labels[first:last]
    return replace(example, tokens=example.tokens[:last], labels=labels[:last])
