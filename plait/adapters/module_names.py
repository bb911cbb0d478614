"""Names of a model's modules in an adapter's configuration: plain text that matches the end of a full name, at a dot.

PEFT reads some of them as regular expressions. `escaped` gives PEFT expressions that match only the names themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeVar

from plait.adapters.spec import Json

Value = TypeVar("Value")

MAX_CHARACTERS = 256

_PEFT_PREFIX = "base_model.model."

# Parts and dots share no character, so matching takes linear time.
_PLAIN = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def is_plain(name: object) -> bool:
    """Whether `name` is a module's name or the end of one: letters, digits, underscores, single dots in between."""
    return isinstance(name, str) and len(name) <= MAX_CHARACTERS and _PLAIN.fullmatch(name) is not None


def in_base(module: str) -> str:
    """The name in the base of a module that an adapter's tensor names have, without the prefix of PEFT's wrapper."""
    return module.removeprefix(_PEFT_PREFIX)


def ends_of(module: str) -> Iterator[str]:
    """All names that match the module called `module`, the longest first."""
    yield module
    for at, character in enumerate(module):
        if character == ".":
            yield module[at + 1 :]


def matches(module: str, names: Iterable[str]) -> bool:
    """Whether one of `names` is `module` or an end of it, at a dot."""
    return any(module == name or module.endswith(f".{name}") for name in names)


def value_for(module: str, table: Mapping[str, Value], default: Value) -> Value:
    """The value of the first name in `table` matching `module`, as in PEFT; ``^NAME`` is a whole name."""
    found = (value for name, value in table.items() if f"^{module}" == name or matches(module, (name,)))
    return next(found, default)


def escaped(names: Json) -> Json:
    """A name, several, or the keys of a table, as regular expressions that match only these names."""
    return _with_each(names, lambda name: name.replace(".", r"\."))


def unescaped(expressions: Json) -> Json:
    """The plain names from which `escaped` made expressions."""
    return _with_each(expressions, lambda expression: expression.replace(r"\.", "."))


def _with_each(names: Json, change: Callable[[str], str]) -> Json:
    if isinstance(names, dict):
        return {change(name): value for name, value in names.items()}
    if isinstance(names, list):
        return [change(name) if isinstance(name, str) else name for name in names]
    return change(names) if isinstance(names, str) else names


def is_in(name: str, modules: Collection[str]) -> bool:
    """Whether a module or a tensor, of a model or of an adapter on it, is one of `modules` or lies in one."""
    return any(f".{module}." in f".{name}." for module in modules)


def is_saved(name: str, modules: Collection[str]) -> bool:
    """Whether PEFT saves a tensor if its settings say to save `modules`: it compares how names end, and not at dots."""
    parts = name.split(".")
    return any(".".join(parts[:count]).endswith(tuple(modules)) for count in range(1, len(parts)))
