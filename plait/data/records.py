"""Records and datasets: a client's training data before tokenisation."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple, Self

from plait.errors import ConfigError, DataError, did_you_mean
from plait.system.text import printable

ROLES = ("system", "user", "assistant", "tool")

Progress = Callable[[str], None]
"""Called with what is being done."""

MEMORY = "memory:"
"""What a run's settings call data that was given as an object, before its name."""


class RecordKind(StrEnum):
    """The fields of a `Record` that are filled; all records of a dataset are of one kind."""

    TEXT = "text"
    PROMPT = "prompt"
    CHAT = "chat"
    LABEL = "label"
    PREFERENCE = "preference"
    """A prompt and two replies to it, of which one was preferred."""


class Message(NamedTuple):
    """One turn of a chat.

    Attributes:
        content: the text of the turn; may be empty.
        extra: what else a chat template gets of it (calls of tools, a tool's name), a JSON object; empty for nothing.
        learned: whether a model should learn to write it, if it is the assistant's.
    """

    role: str
    content: str
    extra: str = ""
    learned: bool = True


@dataclass(frozen=True)
class Record:
    """One training example.

    Attributes:
        text: the text of a TEXT or LABEL record.
        prompt: the input of a PROMPT record.
        completion: the target of a PROMPT record; only this counts in the loss.
        messages: the turns of a CHAT record; the prompt's of a PREFERENCE record.
        label: the class name of a LABEL record.
        chosen: the turns of the preferred reply.
        rejected: the turns of the other one.
        tools: that the assistant of a CHAT record can call, as a JSON list of their definitions; empty for none.
        columns: all other values of the record in the source, by column name.
    """

    text: str = ""
    prompt: str = ""
    completion: str = ""
    messages: tuple[Message, ...] = ()
    label: str = ""
    columns: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    tools: str = ""

    @property
    def content(self) -> str:
        """All text of the record, whatever its kind, one part per line."""
        turns = (*self.messages, *self.chosen, *self.rejected)
        parts = (self.text, self.prompt, self.completion, *(message.content for message in turns))
        return "\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Dataset:
    """Records of one kind, in an order that may have a meaning (chapters, dates).

    Attributes:
        name: the built-in's name, or the file's without its suffix.
        labels: sorted class names if `kind` is LABEL, else empty; a class's index is its position here.
        natural_column: the column that identifies the owner of a record, if the source has an obvious one.
        held_out: records to measure on and never to train on; empty if the source has no such split.
        notes: for the user, one sentence each: what of the source is not in the dataset.
    """

    name: str
    kind: RecordKind
    records: tuple[Record, ...]
    labels: tuple[str, ...] = ()
    natural_column: str = ""
    held_out: tuple[Record, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        kind: RecordKind,
        records: Sequence[Record],
        *,
        natural_column: str = "",
        held_out: Sequence[Record] = (),
        notes: Sequence[str] = (),
    ) -> Self:
        """Make a dataset whose class names are those of its records."""
        labels = sorted({record.label for record in (*records, *held_out)}) if kind is RecordKind.LABEL else ()
        return cls(name, kind, tuple(records), tuple(labels), natural_column, tuple(held_out), tuple(notes))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of all records in their order: any other text, column or order changes it."""
        digest = hashlib.sha256(self.kind.value.encode())
        for part in (self.records, self.held_out):
            digest.update(b"%d records" % len(part))
            for record in part:
                for text in _texts(record):
                    encoded = text.encode()
                    digest.update(b"%d " % len(encoded))
                    digest.update(encoded)
        return digest.hexdigest()

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """Sorted names of the columns that any record has; a LABEL dataset counts its labels as column ``label``."""
        names = {name for record in self.records for name in record.columns}
        if self.kind is RecordKind.LABEL:
            names.add("label")
        return tuple(sorted(names))

    def check_column(self, name: str, what: str = "") -> tuple[str | None, ...]:
        """The values of a column that all records must have; ConfigError if it is missing (`what`: its setting)."""
        if name not in self.column_names:
            hint, available = did_you_mean(name, self.column_names), ", ".join(self.column_names) or "none"
            given = f"{what} is '{name}', and " if what else ""
            raise ConfigError(f"{given}data '{self.name}' has no column '{name}', expected one of: {available}{hint}")
        values = self.column(name)
        if missing := values.count(None):
            raise ConfigError(f"column '{name}' is missing in {missing} of {len(values)} records, expected in all")
        return values

    def column(self, name: str, *, held_out: bool = False) -> tuple[str | None, ...]:
        """The values of one column in record order, None for a record without it."""
        records = self.held_out if held_out else self.records
        if name == "label" and self.kind is RecordKind.LABEL:
            return tuple(record.label for record in records)
        return tuple(record.columns.get(name) for record in records)


def groups_of(records: Sequence[Record], column: str) -> list[str]:
    """The group of each record, by a column; DataError if a record has none."""
    found = [record.columns.get(column, "").strip() for record in records]
    if missing := found.count(""):
        raise DataError(
            f"group column '{column}' is missing or empty in {missing} of {len(found)} records, expected in all"
        )
    return found


def _texts(record: Record) -> Iterator[str]:
    """Everything in a record, columns by name; the numbers of messages and columns make the sequence unambiguous."""
    yield from (record.text, record.prompt, record.completion, record.label, str(len(record.messages)))
    for message in record.messages:
        yield from _texts_of(message)
    if record.tools:
        yield record.tools
    if record.chosen or record.rejected:
        for side in (record.chosen, record.rejected):
            yield str(len(side))
            for message in side:
                yield from _texts_of(message)
    yield str(len(record.columns))
    for name in sorted(record.columns):
        yield from (name, record.columns[name])


def _texts_of(message: Message) -> Iterator[str]:
    yield from (message.role, message.content)
    if message.extra or not message.learned:
        yield from (message.extra, str(message.learned))


_MAX_NAMES = 32
_MAX_CHARACTERS = 40
OTHER = "(other)"
EMPTY = "(empty)"


def histogram(records: Iterable[Record], dataset: Dataset, *, column: str = "") -> dict[str, int]:
    """Count records by label, or else by their owner; values of other columns are text that stays with the data.

    Args:
        column: of the owners; by default the one that the dataset has.

    Returns:
        Count by name, most frequent first; at most 32 names, the rest under ``(other)``, each on one line and of at
            most 40 characters. Empty if nothing can be counted.
    """
    column = column or dataset.natural_column
    if dataset.kind is RecordKind.LABEL:
        names = [record.label for record in records]
    else:
        names = [record.columns.get(column, OTHER) for record in records] if column else []
    counts = Counter(printable(name, limit=_MAX_CHARACTERS) or EMPTY for name in names)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    result = dict(ordered[:_MAX_NAMES])
    if rest := sum(count for _, count in ordered[_MAX_NAMES:]):
        result[OTHER] = result.get(OTHER, 0) + rest
    return result
