"""Names of a model's modules in a configuration: plain text that matches the end of a full name, at a dot."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

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


def is_in(name: str, modules: Collection[str]) -> bool:
    """Whether a module or a tensor, of a model or of an adapter on it, is one of `modules` or lies in one."""
    return any(f".{module}." in f".{name}." for module in modules)


def is_saved(name: str, modules: Collection[str]) -> bool:
    """Whether PEFT saves a tensor if its settings say to save `modules`: it compares how names end, and not at dots."""
    parts = name.split(".")
    return any(".".join(parts[:count]).endswith(tuple(modules)) for count in range(1, len(parts)))
