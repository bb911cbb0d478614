"""How clients learn from preferences and from a reward. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from plait.choice import parse_choice
from plait.data import Record, RecordKind
from plait.features.objectives.examples import judged, last_reply
from plait.features.objectives.named import formula_named
from plait.features.objectives.rewarded import rewarded
from plait.training.conversations import converse, of_each
from plait.training.examples import Example, Split, Tokenizer

if TYPE_CHECKING:
    from torch import nn

    from plait.features.objectives.formula import Formula
    from plait.features.objectives.grpo import GRPO
    from plait.features.objectives.training.completions import RewardLesson
    from plait.features.objectives.training.preferences import PreferenceLesson, References
    from plait.rounds.evaluation import SequenceLosses
    from plait.training.lesson import Taught
    from plait.training.teaching import Judge
    from plait.wire.settings import Settings


class Preferences:
    """A formula of preferences, with what is known of the client's preferences under the base."""

    kinds = frozenset({RecordKind.PREFERENCE})

    def __init__(self, text: str) -> None:
        self._name = parse_choice(text)[0]
        self._formula = cast("Formula", formula_named(text))
        self._references: References | None = None

    @property
    def expected(self) -> str:
        """See `plait.training.teaching.Teaching`."""
        return f"prompt, chosen and rejected for objective '{self._name}'"

    @property
    def references(self) -> References:
        """What the base says of this client's preferences."""
        if self._references is None:
            from plait.features.objectives.training.preferences import References

            self._references = References()
        return self._references

    def check(self) -> None:
        """Nothing: the formula has been found."""

    def examples(
        self, records: Sequence[Record], kind: RecordKind, tokenizer: Tokenizer, seq_len: int
    ) -> list[Example]:
        """Both replies of each record."""
        del kind
        return of_each(records, lambda record: judged(record, tokenizer, seq_len))

    def arranged(self, split: Split) -> Split:
        """As they are."""
        return split

    def lesson(self, taught: Taught) -> PreferenceLesson:
        """See `PreferenceLesson`."""
        from plait.features.objectives.training.preferences import PreferenceLesson

        return PreferenceLesson(taught, self._formula, self.references)

    def judge(self, model: nn.Module, examples: Sequence[Example], *, pad_token: int) -> Judge:
        """By the formula's loss, and the reward by which the chosen reply leads."""
        from plait.features.objectives.training.preferences import PreferenceLoss

        self.references.learn(model, examples, pad_token=pad_token)
        return PreferenceLoss(model, self._formula, self.references, pad_token=pad_token).by_example

    def measured(
        self, model: nn.Module, examples: Sequence[Example], settings: Settings, tokenizer: Tokenizer
    ) -> SequenceLosses | None:
        """As they are judged."""
        del model, examples, settings, tokenizer
        return None


class Rewards:
    """A reward of the user's own; one example counts as one prompt, whatever is sampled."""

    kinds = frozenset({RecordKind.PROMPT, RecordKind.CHAT})
    expected = "prompts with completions, or messages, for objective 'grpo'"

    def __init__(self, text: str) -> None:
        self._formula = cast("GRPO", formula_named(text))
        self._how = rewarded(text)

    def check(self) -> None:
        """Find the reward."""
        from plait.features.objectives.reward import reward_named

        reward_named(self._how.reward)

    def examples(
        self, records: Sequence[Record], kind: RecordKind, tokenizer: Tokenizer, seq_len: int
    ) -> list[Example]:
        """Prompts, with the completion that the record has."""
        return [Example.of_sides(last_reply(each), None) for each in converse(records, kind, tokenizer, seq_len)]

    def arranged(self, split: Split) -> Split:
        """As they are."""
        return split

    def lesson(self, taught: Taught) -> RewardLesson:
        """See `RewardLesson`."""
        from plait.features.objectives.training.completions import RewardLesson

        return RewardLesson(taught, self._formula, self._how)

    def judge(self, model: nn.Module, examples: Sequence[Example], *, pad_token: int) -> None:
        """Nothing: they are measured at once."""

    def measured(
        self, model: nn.Module, examples: Sequence[Example], settings: Settings, tokenizer: Tokenizer
    ) -> SequenceLosses:
        """Minus the reward of one completion of each; one that has none counts for nothing."""
        from plait.features.objectives.training.completions import measured

        return measured(model, examples, self._how, seq_len=settings.seq_len, tokenizer=tokenizer)
