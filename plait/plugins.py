"""Parts that users bring: their own rule, server optimizer, codec, loss, …, found by name without a fork of plait.

A name is one of three: where an object lives (``my_rules:MedianOfMeans``), an entry point of an installed distribution
(``median_of_means`` in the group ``plait.rules``), or an object of this process that Python code gave (`reference`).

A name alone imports nothing. A module is imported only if this process's operator named it: its own command line and
settings do (`admit`), a configuration that came from a server does not. Entry points belong to distributions that the
operator installed. Knows nothing of what the parts are: callers check what they get. A run's ledger keeps the digest of
each one's source.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from plait.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

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
    TRAINER = "trainer"
    PARTITION = "partition"
    DATASET = "dataset"
    CALLBACK = "callback"

    @property
    def group(self) -> str:
        """The group of its entry points, such as ``plait.rules``."""
        return f"plait.{self.value.replace(' ', '_')}{'es' if self.value.endswith('s') else 's'}"


# What Python code gave in this process, what was found in it, and the modules that its operator named.
_given: dict[tuple[Kind, str], object] = {}
_found: dict[tuple[Kind, str], object] = {}
_admitted: set[str] = set()
# Folders that `sys.path` has only so that the operator's own modules are found.
_appended: set[str] = set()


def admit(*names: str) -> None:
    """Allow this process to import the modules of these names, such as ``my_rules`` or ``my_rules:Mine:groups=3``.

    To be called with what this process's own operator named, and never with what a peer sent. Other names, such as
    ``fedavg``, allow nothing that a name could mean.
    """
    _admitted.update(name.partition(":")[0] for name in names)


def reference(kind: Kind, part: object) -> str:
    """The name of an object of this process, under which `find` then returns it.

    It is ``module:qualname`` of where a function, a class or a dataclass lives, with the fields that differ from its
    defaults as options, or the ``name`` of a value that has one.
    """
    holder = part if inspect.isclass(part) or inspect.isroutine(part) else type(part)
    name = f"{holder.__module__}:{holder.__qualname__}"
    options = ""
    if part is not holder:
        again = _options_text(part)
        if again is None:
            own = getattr(part, "name", None)
            if not isinstance(own, str):
                raise ConfigError(f"{kind} is a {holder.__qualname__}, expected a function, a class or a dataclass")
            name = own
        else:
            options, part = again, holder
    _given[kind, name] = part
    return f"{name}:{options}" if options else name


def find(kind: Kind, name: str, *, known: Iterable[str] = ()) -> object:
    """The object that a name without options stands for.

    Args:
        known: names of plait's own parts of this kind, for the message.

    Raises:
        ConfigError: there is no such part, it cannot be imported, or its import is not allowed here.
    """
    if (kind, name) in _given:
        return _given[kind, name]
    if (kind, name) not in _found:
        _found[kind, name] = _looked_up(kind, name, known)
    return _found[kind, name]


def was_found(kind: Kind, name: str) -> bool:
    """Whether a name stands for a user's part that this process has found or was given."""
    return (kind, name) in _given or (kind, name) in _found


def _looked_up(kind: Kind, name: str, known: Iterable[str]) -> object:
    if match := _REFERENCE.fullmatch(name):
        if match[1] in set(known):
            raise ConfigError(f"option of '{match[1]}' is '{match[2]}', expected OPTION=VALUE")
        if match[1] not in _admitted:
            raise ConfigError(
                f"{kind} '{name}' is code of the module '{match[1]}', which this machine's operator did not name; "
                f"expected a part that is installed here, or --allow-plugin {match[1]} to agree"
            )
        return _imported(kind, name, match[1], match[2])
    if entry := _entry_point(kind, name):
        try:
            return entry.load()
        except (Exception, SystemExit) as error:
            raise _failure(kind, name, error) from error
    names = [*known, *sorted(set(installed(kind)) - set(known))]
    expected = f"one of {', '.join(names)}, or MODULE:NAME of your own" if names else "MODULE:NAME"
    raise ConfigError(f"{kind} is '{name}', expected {expected}{did_you_mean(name, names)}")


def is_named(kind: Kind, name: str) -> bool:
    """Whether a name can be that of a user's part: it names a module or a part that is installed or was given."""
    return (kind, name) in _given or bool(_REFERENCE.fullmatch(name)) or name in installed(kind)


def is_importable(kind: Kind, name: str) -> bool:
    """Whether another process on this machine finds the part of this name as this one does."""
    if match := _REFERENCE.fullmatch(name):
        return match[1] != "__main__" and "<" not in match[2]
    return (kind, name) not in _given


def installed(kind: Kind) -> Mapping[str, str]:
    """The parts of a kind that installed distributions bring, by name: each one's distribution and version."""
    return {entry.name: f"{distribution.name} {distribution.version}" for distribution, entry in _entry_points(kind)}


def _imported(kind: Kind, name: str, module_name: str, attributes: str) -> object:
    """What a module has under a dotted name."""
    import importlib

    here = str(Path.cwd())
    # Searched after all installed packages, so that nothing beside a plug-in hides one.
    if here not in sys.path:
        sys.path.append(here)
        _appended.add(here)
    importlib.invalidate_caches()
    try:
        found: object = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise _failure(kind, name, error, module_name) from error
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            file = getattr(found, "__file__", None)
            names = [each for each in vars(found) if not each.startswith("_")] if hasattr(found, "__dict__") else []
            again = "; it was given in Python, so give it there again" if module_name == "__main__" else ""
            raise ConfigError(
                f"{kind} is '{name}', but '{file or module_name}' has no '{attribute}'"
                f"{did_you_mean(attribute, names) or again}"
            ) from None
        # A module's imports are no parts of it: `my_rules:os.system` would lead anywhere.
        if inspect.ismodule(found):
            raise ConfigError(f"{kind} is '{name}', which leads into another module, expected that module's own name")
    return found


def _failure(kind: Kind, name: str, error: BaseException, module: str = "") -> ConfigError:
    """One line for a module that cannot be imported, with the place in the user's own file."""
    from plait.own_code import place_of

    if isinstance(error, ModuleNotFoundError) and error.name and module.split(".")[0] == error.name.split(".")[0]:
        return ConfigError(
            f"{kind} is '{name}', but there is no module '{error.name}' in this directory or installed here"
        )
    said = f"{type(error).__name__}: {error}".splitlines()[0] if str(error) else type(error).__name__
    return ConfigError(f"{kind} '{name}' cannot be imported: {said}{place_of(error)}")


def _entry_points(kind: Kind) -> list[tuple[Distribution, EntryPoint]]:
    """The entry points of installed distributions; a folder that only a plug-in's module is searched in has none."""
    from importlib.metadata import distributions

    path = [each for each in sys.path if each and each not in _appended]
    return [
        (distribution, entry)
        for distribution in distributions(path=path)
        for entry in distribution.entry_points
        if entry.group == kind.group
    ]


def _entry_point(kind: Kind, name: str) -> EntryPoint | None:
    """The one of this name; ConfigError if two distributions have it."""
    found = {distribution.name: entry for distribution, entry in _entry_points(kind) if entry.name == name}
    if len(found) > 1:
        raise ConfigError(f"{kind} '{name}' is installed by {' and '.join(sorted(found))}; keep one of them")
    return next(iter(found.values()), None)


@dataclasses.dataclass(frozen=True)
class Source:
    """What a plug-in was when it was found.

    Attributes:
        sha256: of the file of its module, or of its own lines in a script or notebook; empty for compiled code.
        distribution: name and version of the distribution that it came with; empty if none.
    """

    kind: Kind
    name: str
    sha256: str
    distribution: str = ""


def source_of(kind: Kind, name: str) -> Source:
    """What the ledger keeps of a part; ConfigError if it is not here. Imports nothing."""
    if (part := _given.get((kind, name))) is not None:
        return Source(kind, name, _digest_of(part))
    module = distribution = ""
    if match := _REFERENCE.fullmatch(name):
        module = match[1]
    elif entry := _entry_point(kind, name):
        module, distribution = entry.module, installed(kind)[name]
    file = _file_of(module) if module else None
    if file is None:
        raise ConfigError(f"{kind} is '{name}', but there is no such part in this directory or installed here")
    return Source(kind, name, _digest(file), distribution)


def _digest_of(part: object) -> str:
    """SHA-256 of the file that an object of this process comes from; of its own lines in a script or notebook."""
    part = getattr(part, "origin", None) or part
    holder = part if inspect.isclass(part) or inspect.isroutine(part) else type(part)
    module = sys.modules.get(holder.__module__)
    file = getattr(module, "__file__", None)
    if file and holder.__module__ != "__main__":
        return _digest(Path(file))
    import linecache

    linecache.checkcache()
    try:
        return hashlib.sha256(inspect.getsource(holder).encode()).hexdigest()
    except (OSError, TypeError):
        return ""


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def _file_of(module: str) -> Path | None:
    """The file that a module would be imported from, without importing it or a package around it."""
    if module == "__main__":
        return None
    if loaded := getattr(sys.modules.get(module), "__file__", None):
        return Path(loaded)
    import importlib.machinery

    path: list[str] | None = [*sys.path, str(Path.cwd())]
    spec, parts = None, module.split(".")
    for number in range(len(parts)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[: number + 1]), path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return Path(spec.origin) if spec and spec.origin else None


def _options_text(part: object) -> str | None:
    """The fields of a dataclass that differ from its defaults, as options; None if text cannot make it again."""
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return None
    fields = dataclasses.fields(part)
    if any(field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING for field in fields):
        return None
    differing = {
        field.name: getattr(part, field.name) for field in fields if getattr(part, field.name) != field.default
    }
    if not all(isinstance(value, bool | int | float | str) for value in differing.values()):
        return None
    return ",".join(f"{key}={value}" for key, value in differing.items())
