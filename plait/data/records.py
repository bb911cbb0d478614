"""Records and datasets: what a client trains on, before any tokenizer has seen it.

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
    """Which fields of a `Record` are filled; all records of a dataset are of one kind."""

    TEXT = "text"
    PROMPT = "prompt"
    CHAT = "chat"
    LABEL = "label"


class Message(NamedTuple):
    """One turn of a chat.

    Attributes:
        role: one of `ROLES`.
        content: what was said; may be empty.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Record:
    """One training example.

    Attributes:
        text: the text of a TEXT or LABEL record.
        prompt: what a PROMPT record gives.
        completion: what a PROMPT record wants; only this counts in the loss.
        messages: the turns of a CHAT record.
        label: the class name of a LABEL record.
        columns: everything else the source says of the record, under its column names.
    """

    text: str = ""
    prompt: str = ""
    completion: str = ""
    messages: tuple[Message, ...] = ()
    label: str = ""
    columns: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)

    @property
    def content(self) -> str:
        """All text of the record, whatever its kind, one part a line."""
        parts = (self.text, self.prompt, self.completion, *(message.content for message in self.messages))
        return "\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Dataset:
    """Records of one kind, in an order that may mean something (chapters, dates).

    Attributes:
        name: the built-in's name, or the file's without its suffix.
        kind: of every record.
        records: the records.
        labels: sorted class names where `kind` is LABEL, else empty; a class's index is its place here.
        natural_column: the column that says whose a record is, where the source has an obvious one.
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
        """The values of one column in record order, None where a record has it not."""
        if name == "label" and self.kind is RecordKind.LABEL:
            return tuple(record.label for record in self.records)
        return tuple(record.columns.get(name) for record in self.records)
