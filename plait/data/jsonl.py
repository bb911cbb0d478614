"""Read the user's own data: one JSON object per line, in the formats of other fine-tuning tools.

An object has ``text``, or ``prompt`` and ``completion``, or ``messages``, or ``text`` and ``label``; all other keys
become columns. Errors name the file, the line and the keys, never the text.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from plait.data.records import ROLES, Dataset, Message, Record, RecordKind
from plait.errors import DataError

MAX_LINE_BYTES = 16 << 20

_KEYS: Mapping[RecordKind, tuple[str, ...]] = {
    RecordKind.CHAT: ("messages",),
    RecordKind.PROMPT: ("prompt", "completion"),
    RecordKind.LABEL: ("text", "label"),
    RecordKind.TEXT: ("text",),
}
_SHAPES = "'text', or 'prompt' and 'completion', or 'messages', or 'text' and 'label'"


class _LineError(Exception):
    """An error in a line, without its number, which the reader adds."""


def read_jsonl(path: Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Dataset:
    """Read a JSONL file of records of one kind, which the first record decides.

    A byte order mark and blank lines are skipped. Values of other columns become strings (``true``, ``3.5``, JSON for
    lists and objects); null counts as absent.

    Args:
        path: the file.
        max_line_bytes: refuse a longer line before it is read whole.

    Raises:
        DataError: the file cannot be read or holds no record, or a line (named) is not a valid record.
    """
    records: list[Record] = []
    first_kind: RecordKind | None = None
    first_number = 0
    for number, line in _lines(path, max_line_bytes):
        try:
            fields = _parse(line)
            kind = _kind(fields)
            if first_kind is None:
                first_kind, first_number = kind, number
            if kind is not first_kind:
                raise _LineError(
                    f"has {_named(_KEYS[kind])}, expected {_named(_KEYS[first_kind])} as on line {first_number}"
                )
            records.append(_record(fields, kind))
        except _LineError as error:
            raise DataError(f"line {number} of '{path}' {error}; fix that line or remove it") from error.__cause__
    if first_kind is None:
        raise DataError(f"'{path}' holds no record, expected one JSON object per line")
    return Dataset.of(path.stem, first_kind, records)


def _lines(path: Path, max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(max_line_bytes + 1):
                number += 1
                if len(line) > max_line_bytes:
                    raise DataError(f"line {number} of '{path}' is too long, expected at most {max_line_bytes} bytes")
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror or error}, expected a JSONL file") from error


def _parse(line: bytes) -> dict[str, object]:
    try:
        value = cast("object", json.loads(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        raise _LineError(f"is not UTF-8: byte {error.start + 1} is 0x{line[error.start]:02x}") from error
    except json.JSONDecodeError as error:
        raise _LineError(f"is not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise _LineError("is not JSON that can be read: too long a number or too deep a nesting") from error
    if not isinstance(value, dict):
        raise _LineError(f"is {_type(value)}, expected an object")
    return cast("dict[str, object]", value)


def _kind(fields: Mapping[str, object]) -> RecordKind:
    # The most specific format first: a prompt may come with a column 'text', but not the reverse.
    for kind, keys in _KEYS.items():
        if all(key in fields for key in keys):
            return kind
    found = _named(tuple(fields)[:8]) if fields else "no keys"
    raise _LineError(f"has {found}, expected {_SHAPES}")


def _record(fields: Mapping[str, object], kind: RecordKind) -> Record:
    columns = {
        _unicode(name, "a key"): _column(name, value)
        for name, value in fields.items()
        if name not in _KEYS[kind] and value is not None
    }
    match kind:
        case RecordKind.TEXT:
            return Record(text=_text(fields, "text"), columns=columns)
        case RecordKind.LABEL:
            return Record(text=_text(fields, "text"), label=_label(fields["label"]), columns=columns)
        case RecordKind.PROMPT:
            return Record(prompt=_text(fields, "prompt"), completion=_text(fields, "completion"), columns=columns)
        case RecordKind.CHAT:
            return Record(messages=_messages(fields["messages"]), columns=columns)


def _text(fields: Mapping[str, object], key: str) -> str:
    value = fields[key]
    if not isinstance(value, str):
        raise _LineError(f"has {_type(value)} as '{key}', expected a string")
    if not value.strip():
        raise _LineError(f"has an empty '{key}', expected some text")
    return _unicode(value, f"'{key}'")


def _label(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int)):
        raise _LineError(f"has {_type(value)} as 'label', expected a string, an integer or a boolean")
    if not (label := str(value).strip()):
        raise _LineError("has an empty 'label', expected the name of a class")
    return _unicode(label, "'label'")


def _messages(value: object) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        got = "an empty list" if isinstance(value, list) else _type(value)
        raise _LineError(f"has {got} as 'messages', expected a list of objects with 'role' and 'content'")
    messages: list[Message] = []
    for number, item in enumerate(cast("list[object]", value), start=1):
        if not isinstance(item, dict):
            raise _LineError(f"has {_type(item)} as message {number}, expected an object with 'role' and 'content'")
        turn = cast("dict[str, object]", item)
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES:
            raise _LineError(f"has {_short(role)} as role of message {number}, expected {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise _LineError(f"has {_type(content)} as content of message {number}, expected a string")
        messages.append(Message(cast("str", role), _unicode(content, f"message {number}")))
    if not any(message.role == "assistant" and message.content.strip() for message in messages):
        raise _LineError("has no assistant turn in 'messages', expected one to learn from")
    return tuple(messages)


def _column(name: str, value: object) -> str:
    return _unicode(
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True), _short(name)
    )


def _unicode(text: str, where: str) -> str:
    # JSON can spell half a surrogate pair, which no tokenizer and no UTF-8 file accepts.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _LineError(f"has half a surrogate pair (\\ud800 to \\udfff) in {where}, expected Unicode text") from error
    return text


def _named(keys: tuple[str, ...]) -> str:
    return " and ".join(_short(key) for key in keys)


def _short(value: object) -> str:
    """A key or a role in quotes, short enough for one line; the type of anything else."""
    return ascii(value[:32]) if isinstance(value, str) else _type(value)


def _type(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"
