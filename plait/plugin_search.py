"""The search for parts that users bring, in modules and among entry points; what the ledger keeps of their source."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.machinery
import inspect
import linecache
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.errors import ConfigError, did_you_mean
from plait.own_code import place_of

if TYPE_CHECKING:
    from plait.plugins import Kind

# Folders that `sys.path` has only so that the operator's own modules are found.
_appended: set[str] = set()


@dataclasses.dataclass(frozen=True)
class PluginSource:
    """What a plug-in was."""

    kind: Kind
    name: str
    sha256: str  # of its file, or of its lines in a script or notebook; empty for compiled code
    distribution: str = ""  # name and version; empty if none


def described(kind: Kind, part: object) -> tuple[str, str, object]:
    """The name of an object, its options, and what the name stands for without them.

    A function, a class or a dataclass, whose fields are options, is named after its place; other values by their name.
    """
    holder = _holder(part)
    if part is holder:
        return f"{holder.__module__}:{holder.__qualname__}", "", part
    if (options := _options_text(part)) is not None:
        return f"{holder.__module__}:{holder.__qualname__}", options, holder
    own = getattr(part, "name", None)
    if not isinstance(own, str):
        raise ConfigError(f"{kind} is a {holder.__qualname__}, expected a function, a class or a dataclass")
    return own, "", part


def imported(kind: Kind, name: str, module_name: str, attributes: str) -> object:
    """What a module, which may be imported, has under a dotted name."""
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


def loaded(kind: Kind, name: str, known: Iterable[str]) -> object:
    """What an entry point leads to."""
    if entry := _entry_point(kind, name):
        try:
            return entry.load()
        except (Exception, SystemExit) as error:
            raise _failure(kind, name, error) from error
    names = [*known, *sorted(set(installed(kind)) - set(known))]
    expected = f"one of {', '.join(names)}, or MODULE:NAME of your own" if names else "MODULE:NAME"
    raise ConfigError(f"{kind} is '{name}', expected {expected}{did_you_mean(name, names)}")


def installed(kind: Kind) -> Mapping[str, str]:
    """The parts of a kind that installed distributions bring, by name: each one's distribution and version."""
    return {entry.name: f"{distribution.name} {distribution.version}" for distribution, entry in _entry_points(kind)}


def source(kind: Kind, name: str, *, module: str, given: object) -> PluginSource:
    """The source of an object that was given, or of a part in a module, or of an entry point where there is neither."""
    distribution = ""
    if given is not None:
        return PluginSource(kind, name, _digest_of(given))
    if not module and (entry := _entry_point(kind, name)):
        module, distribution = entry.module, installed(kind)[name]
    if not (file := _file_of(module)):
        raise ConfigError(f"{kind} is '{name}', but there is no such part in this directory or installed here")
    return PluginSource(kind, name, _digest(file), distribution)


def _digest_of(part: object) -> str:
    """SHA-256 of the file that an object of this process comes from; of its own lines in a script or notebook."""
    holder = _holder(getattr(part, "origin", None) or part)
    file = getattr(sys.modules.get(holder.__module__), "__file__", None)
    if file and holder.__module__ != "__main__":
        return _digest(Path(file))
    linecache.checkcache()
    try:
        return hashlib.sha256(inspect.getsource(holder).encode()).hexdigest()
    except (OSError, TypeError):
        return ""


def _holder(part: object) -> Any:
    """The function or class that an object is or has."""
    return part if inspect.isclass(part) or inspect.isroutine(part) else type(part)


def _failure(kind: Kind, name: str, error: BaseException, module: str = "") -> ConfigError:
    """One line for a module that cannot be imported, with the place in the user's own file."""
    if isinstance(error, ModuleNotFoundError) and error.name and module.split(".")[0] == error.name.split(".")[0]:
        return ConfigError(
            f"{kind} is '{name}', but there is no module '{error.name}' in this directory or installed here"
        )
    failure = f"{type(error).__name__}: {error}".splitlines()[0] if str(error) else type(error).__name__
    return ConfigError(f"{kind} '{name}' cannot be imported: {failure}{place_of(error)}")


def _entry_points(kind: Kind) -> list[tuple[Distribution, EntryPoint]]:
    """The entry points of installed distributions; a folder that only a plug-in's module is searched in has none."""
    installed = distributions(path=[each for each in sys.path if each and each not in _appended])
    return [(each, entry) for each in installed for entry in each.entry_points.select(group=kind.group)]


def _entry_point(kind: Kind, name: str) -> EntryPoint | None:
    """The one of this name; ConfigError if two distributions have it."""
    found = {distribution.name: entry for distribution, entry in _entry_points(kind) if entry.name == name}
    if len(found) > 1:
        raise ConfigError(f"{kind} '{name}' is installed by {' and '.join(sorted(found))}; keep one of them")
    return next(iter(found.values()), None)


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def _file_of(module: str) -> Path | None:
    """The file that a module would be imported from, without importing it or a package around it."""
    if module in ("", "__main__"):
        return None
    if loaded := getattr(sys.modules.get(module), "__file__", None):
        return Path(loaded)
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
    given = {field.name: getattr(part, field.name) for field in fields if getattr(part, field.name) != field.default}
    if not all(isinstance(value, bool | int | float | str) for value in given.values()):
        return None
    return ",".join(f"{key}={value}" for key, value in given.items())
