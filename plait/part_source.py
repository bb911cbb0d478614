"""What a user's own part was when a run began: the digest of its source, which the ledger keeps. Imports none."""

from __future__ import annotations

import hashlib
import importlib.machinery
import inspect
import linecache
import sys
from dataclasses import dataclass
from pathlib import Path

from plait.errors import ConfigError
from plait.plugins import Kind, given, module_of


@dataclass(frozen=True)
class Source:
    """What a plug-in was when it was found.

    Attributes:
        name: as the settings give it.
        sha256: of its source: the file of its module, or its own lines where it was given in a script or notebook. 64
            hexadecimal digits; empty where there is no source, as for compiled code.
        distribution: name and version of the distribution that it came with; empty if none.
    """

    kind: Kind
    name: str
    sha256: str
    distribution: str = ""


def source_of(kind: Kind, name: str) -> Source:
    """What the ledger keeps of a part. Imports nothing.

    Raises:
        ConfigError: it is not installed, or the file of its module is not here.
    """
    if (part := given(kind, name)) is not None:
        return Source(kind, name, _digest_of(part))
    module, distribution = module_of(kind, name)
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
    path: list[str] | None = [*sys.path, str(Path.cwd())]
    spec, parts = None, module.split(".")
    for number in range(len(parts)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[: number + 1]), path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return Path(spec.origin) if spec and spec.origin else None
