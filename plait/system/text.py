"""Text of files and peers: JSON and TOML, what a terminal, a log or a report shows, the names that clients may have.

What is no JSON or TOML, or nests too deep, is a ValueError and no other: the standard library's readers end a deep text
in a RecursionError, and what they accept may end their caller in one. Names and details come from peers: no escape
sequence may reach a terminal, nor a change of direction a page. A client's name becomes a folder, a line in the
register and the common name of a certificate, so it is treated as hostile.
"""

import json
import re
import shutil
import textwrap
import tomllib
import unicodedata
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TextIO, TypeAlias, cast

from plait.errors import ConfigError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""What JSON has."""
MAX_DEPTH = 64
"""Objects and lists within each other; what plait reads and writes has a quarter of it."""


def read_json(
    data: bytes | str,
    *,
    most: int = MAX_DEPTH,
    pairs: Callable[[list[tuple[str, Any]]], object] | None = None,
    constant: Callable[[str], object] | None = None,
) -> object:
    """The value of a JSON text.

    Args:
        pairs: makes an object of its keys and values.
        constant: makes a value of NaN or an infinity.

    Raises:
        ValueError: it is none, or nested deeper than `most`.
    """
    try:
        value: object = json.loads(data, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError:
        raise _too_deep(most) from None
    opened = data.count(b"[") + data.count(b"{") if isinstance(data, bytes) else data.count("[") + data.count("{")
    if opened > most:
        _check_depth(value, most)
    return value


def read_toml(data: bytes) -> dict[str, object]:
    """The table of a TOML text in UTF-8; ValueError if it is none, or nested too deep."""
    try:
        table = tomllib.loads(data.decode())
    except RecursionError:
        raise _too_deep(MAX_DEPTH) from None
    _check_depth(table, MAX_DEPTH)
    return table


def _check_depth(value: object, most: int) -> None:
    # Level by level instead of recursively: the text decides the depth.
    level: list[object] = [value]
    for _ in range(most):
        level = [child for each in level for child in _children(each)]
    if any(isinstance(each, dict | list) for each in level):
        raise _too_deep(most)


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, list) else ()


def _too_deep(most: int) -> ValueError:
    return ValueError(f"nested deeper than {most} levels")


def printable(text: str, *, limit: int | None = None) -> str:
    """`text` as one printable line: each control, formatting, separating or unassigned character becomes a space.

    Args:
        limit: the most characters to return; what is longer is cut and ends with an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[: limit - 1]}…"
    if text.isprintable():
        return text  # pictures in a page are megabytes of letters
    return "".join(char if char.isprintable() else " " for char in text)


def escaped(text: str, *, keep: str = "") -> str:
    """`text` with every unprintable character, but those in `keep`, as an escape sequence, so that nothing is lost."""
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)


def fitted(text: str, stream: TextIO, *, indent: int = 0) -> str:
    """`text` as lines that a terminal shows whole; as it is where `stream` is none.

    What stands between backticks stays in one line; a command in a line of its own may be broken, and can be pasted
    all the same.

    Args:
        indent: columns before the second part of a line that is broken, besides those before the first.
    """
    if not stream.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    joined = re.sub("`[^`]*`", lambda found: found[0].replace(" ", "\0"), text)
    return "\n".join(_broken(line, columns, indent) for line in joined.split("\n")).replace("\0", " ")


def _broken(line: str, columns: int, indent: int) -> str:
    before = len(line) - len(line.lstrip())
    wrap = partial(textwrap.wrap, line, break_long_words=False, break_on_hyphens=False)
    if len(line) > columns and line[before:].startswith("plait "):
        return " \\\n".join(wrap(columns - 2, subsequent_indent=" " * (before + 2)))
    return "\n".join(wrap(columns, subsequent_indent=" " * (before + indent)))


# Before that, the time taken predicts nothing.
_KNOWN_AFTER_S = 2


def to_go(done: float, total: float, elapsed_s: float) -> str:
    """How long the rest takes at the pace so far; empty where that is not known."""
    if not 0 < done < total or elapsed_s < _KNOWN_AFTER_S:
        return ""
    rest = round(elapsed_s * (total - done) / done)
    if rest < 60:
        return f"about {max(1, rest)} s to go"
    return f"about {rest // 60} min to go" if rest < 3600 else f"about {rest // 3600} h {rest % 3600 // 60} min to go"


MAX_NAME_BYTES = 64

_CLIENT = re.compile(r"[\w-][\w.-]*")
# Unicode classes of invisible letters.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164")
# Marks with which some scripts write vowels and accents.
_MARKS = ("Mn", "Mc")


def is_client_name(name: str) -> bool:
    """Whether a client may have this name: in Unicode's compatibility form (NFKC), so that look-alikes are equal.

    `check_client_name` states the rest; the length is the limit of a certificate's common name.
    """
    if not 0 < len(name) <= MAX_NAME_BYTES or any("\ud800" <= char <= "\udfff" for char in name):
        return False
    return (
        len(name.encode()) <= MAX_NAME_BYTES
        and _CLIENT.fullmatch("".join(char for char in name if unicodedata.category(char) not in _MARKS)) is not None
        and not unicodedata.category(name[0]).startswith("M")
        and _INVISIBLE.isdisjoint(name)
        and unicodedata.is_normalized("NFKC", name)
    )


def check_client_name(name: str) -> str:
    """`name` itself, if a client may have it."""
    if not is_client_name(name):
        raise ConfigError(
            f"client name is {shown_name(name)}, expected letters and digits of any script, '-', '_' and '.', with no "
            f"dot in front, at most {MAX_NAME_BYTES} bytes (a letter of another script takes 2 to 4)"
        )
    return name


def nearest_name(text: str) -> str:
    """`text` with a dash for every character that no client name has; it may still be too long, or begin with a dot."""
    kept = "".join(
        char if char in "_.-" or char.isalnum() or unicodedata.category(char) in _MARKS else " "
        for char in unicodedata.normalize("NFKC", text)
        if char not in _INVISIBLE
    )
    return "-".join(kept.split())


def composed(name: str) -> str:
    """`name` with accents composed (NFC), as keyboards write it; file systems may decompose them."""
    return unicodedata.normalize("NFC", name)


def shown_name(name: str) -> str:
    """A name as messages have it."""
    return ascii(name if len(name) <= 80 else f"{name[:80]}...")
