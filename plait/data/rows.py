"""From the rows of a source to records: one dataset of one kind, which the first row decides.

Errors name the place of a row and its columns, never the text.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import NamedTuple, cast

from plait.data.columns import EXPECTED, ColumnMap, RecordShape, advice, shape_of
from plait.data.records import ROLES, Message, Record, RecordKind
from plait.errors import ConfigError, DataError, did_you_mean
from plait.system import machine
from plait.system.text import read_json

MAX_ROW_BYTES = 16 << 20
"""The longest text, or line of a file, that is read."""

# What a record takes besides its text, and what each column and turn of it does.
_RECORD_BYTES = 512
_PART_BYTES = 128
# Of chats in other formats: ShareGPT's and its successors', OpenAI's older and newer names.
_OTHER_ROLES: Mapping[str, str] = {
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant", "function_call": "assistant", "observation": "tool", "function": "tool",
    "function_response": "tool", "developer": "system",
}  # fmt: skip
_CALL = "function_call"
_TOOLS = ("tools", "functions")
# What chat templates use of a turn besides role and content.
_EXTRAS = ("tool_calls", "tool_call_id", "name", "reasoning_content")
_MOST_NAMES = 12


class Row(NamedTuple):
    """One record as its source has it.

    Attributes:
        place: where it stands, in words that begin with what it is: ``line 3 of 'my.jsonl'``.
        fields: plain values by column: text, numbers, booleans, None, lists and mappings of these.
    """

    place: str
    fields: Mapping[str, object]


@dataclass(frozen=True)
class DataSource:
    """Data before it is read: the rows of each split, read when they are asked for.

    `what` names the source in errors, and `expected` what it should hold.
    """

    name: str
    what: str
    splits: Mapping[str, Callable[[], Iterator[Row]]]
    expected: str = "at least one"
    natural_column: str = ""
    notes: tuple[str, ...] = ()


class RowError(Exception):
    """An error in a row, without its place, which the reader adds."""

    def at(self, place: str) -> DataError:
        """The error with its place, and what to do."""
        return DataError(f"{place} {self}; fix that {place.partition(' ')[0]} or remove it")


class Room:
    """The memory that records may take: half of the machine's, so that no source can fill it."""

    def __init__(self, most_bytes: int = 0) -> None:
        self._most_bytes = most_bytes or machine.memory_bytes() // 2 or 1 << 36
        self._bytes = 0

    def take(self, size_bytes: int, what: str) -> None:
        """Count what is about to be kept; DataError if all together is more than there is room for."""
        self._bytes += size_bytes
        if self._bytes > self._most_bytes:
            raise DataError(
                f"{what} holds more than {self._most_bytes:,} bytes of data, expected at most half of this machine's "
                "memory; take a part of it, such as --split train[:100000]"
            )


class RowReader:
    """Reads the rows of one source; all have the shape of the first, which stands at `place`."""

    def __init__(self, columns: ColumnMap) -> None:
        self._columns, self._room = columns, Room()
        self.shape, self.place = columns.shape, ""

    def read(self, rows: Iterable[Row]) -> tuple[Record, ...]:
        """All rows as records.

        Raises:
            ConfigError: there is no such column as the user named.
            DataError: a row is not a valid record, or another kind of record than the first.
        """
        return tuple(map(self._record, rows))

    def _record(self, row: Row) -> Record:
        try:
            shape = self.shape = self.shape or _recognised(row)
            if not self.place:
                self.place = row.place
                if self._columns.shape:
                    _check_columns(row, shape)
            _check_shape(row.fields, shape, self._columns, self.place)
            record = _record(row.fields, shape)
        except RowError as error:
            raise error.at(row.place) from error.__cause__
        except RecursionError as error:
            # It was read, but cannot be written as text from here.
            raise RowError("is nested too deeply").at(row.place) from error
        self._room.take(_size_bytes(record), _source(row))
        return record


def _size_bytes(record: Record) -> int:
    """About what a record takes in memory."""
    turns = (*record.messages, *record.chosen, *record.rejected)
    texts = len(record.content) + len(record.tools) + sum(len(turn.extra) for turn in turns)
    columns = sum(len(name) + len(value) for name, value in record.columns.items())
    return texts + columns + _PART_BYTES * (len(record.columns) + len(turns)) + _RECORD_BYTES


def _recognised(row: Row) -> RecordShape:
    if shape := shape_of(row.fields):
        return shape
    if not row.fields:
        raise RowError(f"has no keys, expected {EXPECTED}")
    texts = {name: value for name, value in row.fields.items() if isinstance(value, str)}
    names = sorted(texts, key=lambda name: -len(texts[name]))
    raise DataError(
        f"{row.place} has {_named(tuple(row.fields))}, expected {EXPECTED}; if they have other names, give "
        f"{advice(row.fields.keys(), names)}"
    )


def _check_columns(first: Row, shape: RecordShape) -> None:
    """Refuse columns that the user named and the first row lacks: a typo, which no line of the data mends."""
    for name in shape.columns:
        if name not in first.fields:
            raise ConfigError(
                f"{_source(first)} has no column {_short(name)}, which --columns names; it has "
                f"{_named(tuple(first.fields)) or 'none'}{did_you_mean(name, first.fields)}"
            )


def _source(row: Row) -> str:
    return row.place.partition(" of ")[2] or row.place


def _check_shape(fields: Mapping[str, object], shape: RecordShape, columns: ColumnMap, place: str) -> None:
    if columns.shape is None:
        found = shape_of(fields)
        if found is shape:
            return
        if found is None:
            raise RowError(f"has {_named(tuple(fields)) or 'no keys'}, expected {EXPECTED}")
        raise RowError(f"has {_named(found.columns)}, expected {_named(shape.columns)} as on {place}")
    for name in shape.columns:
        if name not in fields:
            raise RowError(f"has {_named(tuple(fields)) or 'no keys'}, expected {_short(name)} (--columns names it)")


def _record(fields: Mapping[str, object], shape: RecordShape) -> Record:
    consumed = shape.consumed
    tools = _tools(fields) if shape.kind is RecordKind.CHAT else ""
    columns = {
        _unicode(name, "a key"): _column(name, value)
        for name, value in fields.items()
        if value is not None and name not in consumed and not (tools and name in _TOOLS)
    }
    match shape.kind:
        case RecordKind.TEXT:
            return Record(text=_text(fields, shape.sources["text"]), columns=columns)
        case RecordKind.LABEL:
            (label,) = shape.sources["label"]
            text = _text(fields, shape.sources["text"])
            return Record(text=text, label=_label(fields[label], label), columns=columns)
        case RecordKind.PROMPT:
            prompt, completion = (_text(fields, shape.sources[name]) for name in ("prompt", "completion"))
            return Record(prompt=prompt, completion=completion, columns=columns)
        case RecordKind.CHAT:
            (messages,) = shape.sources["messages"]
            return Record(messages=_messages(fields[messages], messages), columns=columns, tools=tools)
        case RecordKind.PREFERENCE:
            prompt = _said(fields, shape.sources["prompt"], "user")
            chosen, rejected = (_reply(fields, shape.sources[name], prompt) for name in ("chosen", "rejected"))
            if chosen == rejected:
                raise RowError("has the same reply as chosen and as rejected")
            return Record(messages=prompt, chosen=chosen, rejected=rejected, columns=columns)


def _tools(fields: Mapping[str, object]) -> str:
    """The tools that a chat offers, as a JSON list; empty for none. A column of that name may be something else."""
    value = next((fields[name] for name in _TOOLS if fields.get(name)), None)
    if isinstance(value, str):
        value = _json_of(value)
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in cast("list[object]", value)):
        return ""
    tools = cast("list[dict[str, object]]", value)
    # OpenAI's older form, `functions`, leaves the type out.
    whole = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]
    return _unicode(json.dumps(whole, ensure_ascii=False), "tools")


def _json_of(text: str) -> object:
    """The value of a JSON text; the text itself if it is not JSON."""
    try:
        return read_json(text)
    except ValueError:
        return text


def _said(fields: Mapping[str, object], names: tuple[str, ...], role: str) -> tuple[Message, ...]:
    """The turns of a prompt or a reply; a text is one turn of this role."""
    value = fields[names[0]]
    return _turns(value, names[0]) if isinstance(value, list) else (Message(role, _text(fields, names)),)


def _reply(fields: Mapping[str, object], names: tuple[str, ...], prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns of a reply, which may begin with the prompt's."""
    turns = _said(fields, names, "assistant")
    if len(turns) > len(prompt) and turns[: len(prompt)] == prompt:
        turns = turns[len(prompt) :]
    if turns[0].role != "assistant" or not _has_content(turns[0]):
        raise RowError(f"has no assistant turn after the prompt in {_short(names[0])}, expected a reply to it")
    return turns


def _text(fields: Mapping[str, object], names: tuple[str, ...]) -> str:
    first, *others = names
    # Of several columns, all but the first may be empty.
    filled = (name for name in others if fields.get(name) is not None and str(fields[name]).strip())
    return "\n\n".join(_filled(fields[name], name) for name in (first, *filled))


def _filled(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"has {kind_of(value)} as {_short(name)}, expected a string")
    if not value.strip():
        raise RowError(f"has an empty {_short(name)}, expected some text")
    if len(value) > MAX_ROW_BYTES:
        raise RowError(f"has {len(value):,} characters as {_short(name)}, expected at most {MAX_ROW_BYTES:,}")
    return _unicode(value, _short(name))


def _label(value: object, name: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int)):
        raise RowError(f"has {kind_of(value)} as {_short(name)}, expected a string, an integer or a boolean")
    if not (label := str(value).strip()):
        raise RowError(f"has an empty {_short(name)}, expected the name of a class")
    return _unicode(label, _short(name))


def _messages(value: object, name: str) -> tuple[Message, ...]:
    messages = _turns(value, name)
    if not any(message.role == "assistant" and message.learned and _has_content(message) for message in messages):
        raise RowError(f"has no assistant turn in {_short(name)}, expected one to learn from")
    return messages


def _turns(value: object, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        got = "an empty list" if isinstance(value, list) else kind_of(value)
        raise RowError(f"has {got} as {_short(name)}, expected a list of objects with 'role' and 'content'")
    messages: list[Message] = []
    for number, item in enumerate(cast("list[object]", value), start=1):
        if not isinstance(item, dict):
            raise RowError(f"has {kind_of(item)} as message {number}, expected an object with 'role' and 'content'")
        messages.append(_turn(cast("dict[str, object]", item), number))
    return tuple(messages)


def _has_content(message: Message) -> bool:
    """Whether a turn has text or calls a tool."""
    return bool(message.content.strip()) or '"tool_calls"' in message.extra


def _turn(turn: Mapping[str, object], number: int) -> Message:
    """A turn in OpenAI's format or in ShareGPT's (`from` and `value`)."""
    is_other = turn.get("role") is None and "from" in turn
    given, content = (turn["from"], turn.get("value")) if is_other else (turn.get("role"), turn.get("content"))
    role = _OTHER_ROLES.get(given, given) if isinstance(given, str) else given
    if not isinstance(role, str) or role not in ROLES:
        raise RowError(f"has {_short(given)} as role of message {number}, expected {', '.join(ROLES)}")
    extra: dict[str, object] = {name: value for name in _EXTRAS if (value := turn.get(name))}
    if is_other and given == _CALL:
        extra["tool_calls"], content = content, ""
    if "tool_calls" in extra:
        extra["tool_calls"] = _calls(extra["tool_calls"], number)
    text = _content(content, number, may_lack="tool_calls" in extra)
    extras = _unicode(json.dumps(extra, ensure_ascii=False), f"message {number}") if extra else ""
    return Message(role, text, extras, _is_learned(turn.get("weight"), number))


def _content(content: object, number: int, *, may_lack: bool) -> str:
    """The text of a turn; of one in parts, all parts' text."""
    if content is None and may_lack:
        return ""
    if isinstance(content, list):
        parts = cast("list[object]", content)
        texts = [cast("dict[str, object]", part).get("text") for part in parts if isinstance(part, dict)]
        if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
            raise RowError(f"has parts in message {number} that are not text")
        content = "".join(cast("list[str]", texts))
    if not isinstance(content, str):
        raise RowError(f"has {kind_of(content)} as content of message {number}, expected a string")
    return _unicode(content, f"message {number}")


def _calls(calls: object, number: int) -> list[dict[str, object]]:
    """Calls of tools as chat templates read them: with their arguments as an object, not as its JSON text."""
    found: list[dict[str, object]] = []
    for given in cast("list[object]", calls) if isinstance(calls, list) else [calls]:
        call = _json_of(given) if isinstance(given, str) else given
        whole = cast("dict[str, object]", call) if isinstance(call, dict) else {}
        function = whole.get("function", whole)
        named = cast("dict[str, object]", function) if isinstance(function, dict) else {}
        if not isinstance(named.get("name"), str):
            raise RowError(f"has a call in message {number} that names no tool, expected 'name' and 'arguments'")
        arguments = named.get("arguments", {})
        arguments = _json_of(arguments) if isinstance(arguments, str) else arguments
        kept = {"id": whole["id"]} if "id" in whole else {}
        found.append({**kept, "type": "function", "function": {"name": named["name"], "arguments": arguments}})
    return found


def _is_learned(weight: object, number: int) -> bool:
    """OpenAI's weight of a turn, 0 or 1."""
    if weight is None or weight in (0, 1):
        return weight is None or bool(weight)
    raise RowError(f"has {_short(weight)} as weight of message {number}, expected 0 or 1")


def _column(name: str, value: object) -> str:
    if isinstance(value, str):
        return _unicode(value, _short(name))
    return _unicode(json.dumps(value, ensure_ascii=False, sort_keys=True), _short(name))


def _unicode(text: str, where: str) -> str:
    # JSON can spell half a surrogate pair, which no tokenizer and no UTF-8 file accepts.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"has half a surrogate pair (\\ud800 to \\udfff) in {where}, expected Unicode text") from error
    return text


def _named(keys: tuple[str, ...]) -> str:
    more = f" and {len(keys) - _MOST_NAMES} more" if len(keys) > _MOST_NAMES else ""
    return " and ".join(_short(key) for key in keys[:_MOST_NAMES]) + more


def _short(value: object) -> str:
    """A key or a role in quotes, short enough for one line; the type of anything else."""
    return repr(value if len(value) <= 32 else f"{value[:31]}…") if isinstance(value, str) else kind_of(value)


_KINDS: Mapping[type, str] = {
    NoneType: "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
}


def kind_of(value: object) -> str:
    """What a plain value is, in words."""
    return _KINDS.get(type(value), "an object")
