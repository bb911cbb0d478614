"""Parts that users bring: their own rule, server optimizer, codec, loss, …, found by name without a fork of plait.

A name is one of three: where an object lives (``my_rules:MedianOfMeans``), an entry point of an installed distribution
(``median_of_means`` in the group ``plait.rules``), or an object of this process that Python code gave. A module is
imported only if this process's operator named it (`admit`); a configuration that came from a server does not.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

from plait.errors import ConfigError

if TYPE_CHECKING:
    from plait.plugin_search import PluginSource

# MODULE:QUALNAME; a function within a function has `<locals>` in its own.
_REFERENCE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_<][\w<>]*(?:\.[A-Za-z_<][\w<>]*)*)", re.ASCII)


class Kind(StrEnum):
    """The kinds of parts; each is also the name of the setting in messages."""

    RULE = "rule"
    SERVER_OPTIMIZER = "server optimizer"
    CODEC = "codec"
    METHOD = "method"
    LOSS = "loss"
    OBJECTIVE = "objective"
    REWARD = "reward"
    METRIC = "metric"
    TRAINER = "trainer"
    PARTITION = "partition"
    DATASET = "dataset"
    CALLBACK = "callback"

    @property
    def group(self) -> str:
        """The group of its entry points, such as ``plait.rules``."""
        return f"plait.{self.value.replace(' ', '_')}{'es' if self.value.endswith('s') else 's'}"


# What Python code gave in this process, what was found in it, and the modules that its operator named.
GIVEN: dict[tuple[Kind, str], object] = {}
_found: dict[tuple[Kind, str], object] = {}
ADMITTED: set[str] = set()


def _search():
    from plait import plugin_search  # few runs have such parts

    return plugin_search


def admit(*names: str) -> None:
    """Allow this process to import the modules of these names, which its own operator gave, never a peer."""
    ADMITTED.update(name.partition(":")[0] for name in names)


def reference(kind: Kind, part: object) -> str:
    """The name of an object of this process, with its options, under which `find` then returns it."""
    name, options, found = _search().described(kind, part)
    GIVEN[kind, name] = found
    return f"{name}:{options}" if options else name


def find(kind: Kind, name: str, *, known: Iterable[str] = ()) -> object:
    """The object that a name without options stands for; ConfigError without one, or where it may not be imported.

    Names of plait's own parts of this kind are `known`, for the message.
    """
    if (kind, name) in GIVEN:
        return GIVEN[kind, name]
    if (kind, name) not in _found:
        match = _REFERENCE.fullmatch(name)
        if match and match[1] in set(known):
            raise ConfigError(f"option of '{match[1]}' is '{match[2]}', expected OPTION=VALUE")
        if match and match[1] not in ADMITTED:
            raise ConfigError(
                f"{kind} '{name}' is code of the module '{match[1]}', which this machine's operator did not name; "
                f"expected a part that is installed here, or --allow-plugin {match[1]} to agree"
            )
        search = _search()
        _found[kind, name] = (
            search.imported(kind, name, match[1], match[2]) if match else search.loaded(kind, name, known)
        )
    return _found[kind, name]


def was_found(kind: Kind, name: str) -> bool:
    """Whether a name stands for a user's part that this process has found or was given."""
    return (kind, name) in GIVEN or (kind, name) in _found


def is_named(kind: Kind, name: str) -> bool:
    """Whether a name can be that of a user's part: it names a module or a part that is installed or was given."""
    if (kind, name) in GIVEN or _REFERENCE.fullmatch(name):
        return True
    return name in _search().installed(kind)


def is_importable(kind: Kind, name: str) -> bool:
    """Whether another process on this machine finds the part of this name as this one does."""
    if match := _REFERENCE.fullmatch(name):
        return match[1] != "__main__" and "<" not in match[2]
    return (kind, name) not in GIVEN


def source_of(kind: Kind, name: str) -> "PluginSource":
    """What the ledger keeps of a part; ConfigError if it is not here. Imports nothing."""
    match = _REFERENCE.fullmatch(name)
    return _search().source(kind, name, module=match[1] if match else "", given=GIVEN.get((kind, name)))
