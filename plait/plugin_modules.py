"""Where users' own parts are: modules of their names, and entry points of installed distributions.

Asks nobody whether a module may be imported: `plait.plugins` does.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from plait.errors import ConfigError, did_you_mean
from plait.own_code import place_of

if TYPE_CHECKING:
    from plait.plugins import Kind

# Folders that `sys.path` has only so that the operator's own modules are found.
_appended: set[str] = set()


def imported(kind: Kind, name: str, module_name: str, attributes: str) -> object:
    """What a module has under a dotted name.

    Raises:
        ConfigError: it cannot be imported, or has no such attribute.
    """
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


def load(kind: Kind, name: str, entry: importlib.metadata.EntryPoint) -> object:
    """What an entry point stands for.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        raise _failure(kind, name, error) from error


def _failure(kind: Kind, name: str, error: BaseException, module: str = "") -> ConfigError:
    """One line for a module that cannot be imported, with the place in the user's own file."""
    if isinstance(error, ModuleNotFoundError) and error.name and module.split(".")[0] == error.name.split(".")[0]:
        return ConfigError(
            f"{kind} is '{name}', but there is no module '{error.name}' in this directory or installed here"
        )
    said = f"{type(error).__name__}: {error}".splitlines()[0] if str(error) else type(error).__name__
    return ConfigError(f"{kind} '{name}' cannot be imported: {said}{place_of(error)}")


def entry_points(
    kind: Kind,
) -> list[tuple[importlib.metadata.Distribution, importlib.metadata.EntryPoint]]:
    """The entry points of installed distributions; a folder that only a plug-in's module is searched in has none."""
    path = [each for each in sys.path if each and each not in _appended]
    return [
        (distribution, entry)
        for distribution in importlib.metadata.distributions(path=path)
        for entry in distribution.entry_points
        if entry.group == kind.group
    ]


def entry_point(kind: Kind, name: str) -> importlib.metadata.EntryPoint | None:
    """The one of this name; None if there is none.

    Raises:
        ConfigError: two distributions have it.
    """
    found = {distribution.name: entry for distribution, entry in entry_points(kind) if entry.name == name}
    if len(found) > 1:
        raise ConfigError(f"{kind} '{name}' is installed by {' and '.join(sorted(found))}; keep one of them")
    return next(iter(found.values()), None)
