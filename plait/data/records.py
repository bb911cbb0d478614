"""Records and datasets: a client's training data before tokenisation.

Knows nothing of files, tokens or clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

ROLES = ("system", "user", "assistant", "tool")


class RecordKind(StrEnum):
    """The fields of a `Record` that are filled; all records of a dataset are of one kind."""

    TEXT = "text"
    PROMPT = "prompt"
    CHAT = "chat"
    LABEL = "label"


class Message(NamedTuple):
    """One turn of a chat.

    Attributes:
        role: one of `ROLES`.
        content: the text of the turn; may be empty.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Record:
    """One training example.

    Attributes:
        text: the text of a TEXT or LABEL record.
        prompt: the input of a PROMPT record.
        completion: the target of a PROMPT record; only this counts in the loss.
        messages: the turns of a CHAT record.
        label: the class name of a LABEL record.
        columns: all other values of the record in the source, by column name.
    """

    text: str = ""
    prompt: str = ""
    completion: str = ""
    messages: tuple[Message, ...] = ()
    label: str = ""
    columns: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)

    @property
    def content(self) -> str:
        """All text of the record, whatever its kind, one part per line."""
        parts = (self.text, self.prompt, self.completion, *(message.content for message in self.messages))
        return "\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Dataset:
    """Records of one kind, in an order that may have a meaning (chapters, dates).

    Attributes:
        name: the built-in's name, or the file's without its suffix.
        kind: of every record.
        records: the records.
        labels: sorted class names if `kind` is LABEL, else empty; a class's index is its position here.
        natural_column: the column that identifies the owner of a record, if the source has an obvious one.
    """

    name: str
    kind: RecordKind
    records: tuple[Record, ...]
    labels: tuple[str, ...] = ()
    natural_column: str = ""

    @classmethod
    def of(cls, name: str, kind: RecordKind, records: Sequence[Record], *, natural_column: str = "") -> Dataset:
        """Make a dataset whose class names are those of its records."""
        labels = sorted({record.label for record in records}) if kind is RecordKind.LABEL else ()
        return cls(name, kind, tuple(records), tuple(labels), natural_column)

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """Sorted names of the columns that any record has; a LABEL dataset counts its labels as column ``label``."""
        names = {name for record in self.records for name in record.columns}
        if self.kind is RecordKind.LABEL:
            names.add("label")
        return tuple(sorted(names))

    def column(self, name: str) -> tuple[str | None, ...]:
        """The values of one column in record order, None for a record without it."""
        if name == "label" and self.kind is RecordKind.LABEL:
            return tuple(record.label for record in self.records)
        return tuple(record.columns.get(name) for record in self.records)
