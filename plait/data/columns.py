"""Which columns of a source hold what: recognised by name, or named by the user (``text=body,client=author``)."""

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from plait.data.records import RecordKind
from plait.errors import ConfigError, did_you_mean
from plait.system.text import printable

CLIENT = "client"
EXPECTED = (
    "'text', or 'prompt' and 'completion', or 'messages', or 'text' and 'label', or 'prompt', 'chosen' and 'rejected'"
)

# The most specific format first: a prompt may come with a column 'text', but not the reverse.
_FIELDS: Mapping[RecordKind, tuple[str, ...]] = {
    RecordKind.PREFERENCE: ("prompt", "chosen", "rejected"),
    RecordKind.CHAT: ("messages",),
    RecordKind.PROMPT: ("prompt", "completion"),
    RecordKind.LABEL: ("text", "label"),
    RecordKind.TEXT: ("text",),
}
_NAMES = tuple(dict.fromkeys(name for fields in _FIELDS.values() for name in fields))
# Fields that are never made of several columns.
_SINGLE = ("label", "messages", "chosen", "rejected", CLIENT)
_GRAMMAR = f"FIELD=COLUMN, such as text=body,client=author, with the fields {', '.join(_NAMES)} and {CLIENT}"

# Names that a column of this content often has, for the advice in an error; none of them is taken without being asked.
_LIKELY: Mapping[str, tuple[str, ...]] = {
    "messages": ("conversation", "conversations", "dialogue", "dialog", "chat", "turns"),
    "prompt": ("question", "instruction", "query", "input", "problem", "source"),
    "completion": ("answer", "response", "output", "reply", "solution", "target"),
    "text": ("body", "content", "document", "article", "passage", "review", "sentence", "story", "abstract", "note"),
    "chosen": ("preferred", "accepted", "better", "winner"),
    "rejected": ("dispreferred", "refused", "worse", "loser"),
    "label": ("labels", "class", "category", "topic", "intent", "sentiment"),
}


@dataclass(frozen=True)
class RecordShape:
    """Where the fields of a record are.

    Attributes:
        sources: the columns of each field of this kind; the texts of several are joined.
        optional: columns that a record may lack.
    """

    kind: RecordKind
    sources: Mapping[str, tuple[str, ...]]
    optional: frozenset[str] = frozenset()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a record must have."""
        return tuple(name for names in self.sources.values() for name in names if name not in self.optional)

    @property
    def consumed(self) -> frozenset[str]:
        """The columns that are not kept as columns; a label under another name stays one, to partition by."""
        names = {name for field, names in self.sources.items() for name in names if field != "label" or name == "label"}
        return frozenset(names)

    def fits(self, names: Collection[str]) -> bool:
        """Whether a record with these columns has this shape."""
        return all(name in names for name in self.columns)


_OWN = tuple(RecordShape(kind, {name: (name,) for name in fields}) for kind, fields in _FIELDS.items())
# Of other tools, recognised only where a record has none of the above and one of these: Alpaca, ShareGPT.
_OTHERS = (
    RecordShape(
        RecordKind.PROMPT,
        {"prompt": ("instruction", "input"), "completion": ("output",)},
        frozenset({"input"}),
    ),
    RecordShape(RecordKind.CHAT, {"messages": ("conversations",)}),
)


def shape_of(fields: Mapping[str, object]) -> RecordShape | None:
    """The shape of a record with these fields; None if none is certain."""
    for shape in _OWN:
        if shape.fits(fields):
            return shape
    fitting = [shape for shape in _OTHERS if shape.fits(fields)]
    return fitting[0] if len(fitting) == 1 else None


@dataclass(frozen=True)
class ColumnMap:
    """The columns that a user named: the shape of records, None to recognise it, and the column of clients or ""."""

    shape: RecordShape | None = None
    client: str = ""


def column_map(columns: str | Mapping[str, str] | None) -> ColumnMap:
    """Read a column map.

    Args:
        columns: ``FIELD=COLUMN,…`` or the same as a mapping. Several columns with ``+`` between them are joined, with a
            blank line between their texts: ``prompt=instruction+input``.

    Raises:
        ConfigError: not a column map, or its fields are not of one kind of record.
    """
    pairs = _pairs(columns) if isinstance(columns, str) else list((columns or {}).items())
    named: dict[str, tuple[str, ...]] = {}
    for field, column in pairs:
        if field not in (*_NAMES, CLIENT):
            hint = did_you_mean(field, (*_NAMES, CLIENT))
            raise ConfigError(f"columns names the field {field!a}, expected {_GRAMMAR}{hint}")
        if field in named:
            raise ConfigError(f"columns names '{field}' twice, expected it once; join columns as {field}=A+B")
        parts = tuple(part.strip() for part in column.split("+"))
        if not all(parts) or (len(parts) > 1 and field in _SINGLE):
            raise ConfigError(f"columns has {column!a} for '{field}', expected the name of a column")
        named[field] = parts
    client = named.pop(CLIENT, ("",))[0]
    if not named:
        return ColumnMap(None, client)
    # The smallest record that has all of them; a field that is not named has its own name.
    for kind, fields in sorted(_FIELDS.items(), key=lambda item: len(item[1])):
        if named.keys() <= set(fields):
            sources = {name: named.get(name, (name,)) for name in fields}
            return ColumnMap(RecordShape(kind, sources), client)
    raise ConfigError(f"columns names {' and '.join(named)}, expected the fields of one kind of record: {EXPECTED}")


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        field, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ConfigError(f"columns has {part!a}, expected {_GRAMMAR}")
        pairs.append((field, column))
    return pairs


def advice(names: Collection[str], texts: Collection[str]) -> str:
    """The ``--columns`` that would probably do for records that have no known shape."""
    by_lower = {name.lower(): name for name in names}
    near = {
        field: next((by_lower[word] for word in (field, *words) if word in by_lower), "")
        for field, words in _LIKELY.items()
    }
    if near["messages"] and near["messages"] not in texts:
        return _spelled(messages=near["messages"])
    if near["chosen"] and near["rejected"]:
        return _spelled(prompt=near["prompt"] or "COLUMN", chosen=near["chosen"], rejected=near["rejected"])
    if near["prompt"] and near["completion"]:
        return _spelled(prompt=near["prompt"], completion=near["completion"])
    text = near["text"] or next(iter(texts), "")
    if text and near["label"] and near["label"] != text:
        return _spelled(text=text, label=near["label"])
    return _spelled(text=text or "COLUMN")


def _spelled(**columns: str) -> str:
    text = ",".join(f"{field}={column}" for field, column in columns.items())
    return f"--columns {shlex.quote(printable(text))}"
