"""How a client learns an objective: examples from its records, a lesson, and by what held-out data are judged.

Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, TypeAlias

from plait.data import Record, RecordKind
from plait.objectives import objective_named

if TYPE_CHECKING:
    from torch import nn

    from plait.rounds.evaluation import SequenceLosses
    from plait.training.examples import Example, Tokenizer
    from plait.training.lesson import Lesson, Taught
    from plait.wire.settings import Settings

Judge: TypeAlias = "Callable[[Sequence[Example]], tuple[list[float], list[float]]]"
"""From a batch to the loss of each example, and by how much it leads (see `SequenceLosses.leads`)."""


class Teaching:
    """How one client learns an objective; here supervised fine-tuning, which of preferences learns the chosen replies.

    May remember what it found out about the client's examples.

    Attributes:
        kinds: of records that it learns from.
    """

    kinds: Collection[RecordKind] = frozenset(
        {RecordKind.TEXT, RecordKind.PROMPT, RecordKind.CHAT, RecordKind.PREFERENCE}
    )
    expected = "text, prompts or messages"

    def check(self) -> None:
        """Find the parts of a user's own that its options name.

        Raises:
            ConfigError: one cannot be found.
        """

    def examples(
        self, records: Sequence[Record], kind: RecordKind, tokenizer: Tokenizer, seq_len: int
    ) -> list[Example]:
        """Examples of records that are not plain text.

        Args:
            seq_len: tokens of a sequence at most.

        Raises:
            DataError: the base's chat template refuses a record.
        """
        from plait.training.conversations import converse

        return converse(records, kind, tokenizer, seq_len)

    def lesson(self, taught: Taught) -> Lesson:
        """What one training learns from."""
        from plait.training.lesson import Lesson

        return Lesson(taught)

    def judge(self, model: nn.Module, examples: Sequence[Example], *, pad_token: int) -> Judge | None:
        """By what held-out examples are judged, in evaluation mode; None for the loss of their labels."""
        del model, examples, pad_token
        return None

    def measured(
        self, model: nn.Module, examples: Sequence[Example], settings: Settings, tokenizer: Tokenizer
    ) -> SequenceLosses | None:
        """The losses of all held-out examples where they are no sum over tokens or pairs; None for `judge`.

        Raises:
            PartError: a part of the user's own fails.
            MachineError: it does not fit into memory.
            Abandoned: the result is no longer needed.
        """
        del model, examples, settings, tokenizer
        return None


def teaching_of(text: str) -> Teaching:
    """How the objective of this text is learned.

    Raises:
        ConfigError: there is none, or an option is wrong.
    """
    objective = objective_named(text)
    if objective.is_plain:
        return Teaching()
    from plait.training.taught import Preferences, Rewards

    return Rewards(text) if objective.completions else Preferences(text)
