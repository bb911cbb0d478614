"""The source of an export: the adapter of a run directory or of any PEFT directory, and its base.

Only reads files. The base need not be on this disk: plait stored its name and fingerprint.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plait.adapters import AdapterSpec, AdapterState, BaseReference, Json, Parent
from plait.adapters.peft import CARD_FILE, WEIGHTS_FILE
from plait.adapters.peft_reading import PeftAdapter, load_peft_directory
from plait.adapters.safetensors import parse_object
from plait.data import Progress
from plait.errors import BaseMismatchError, ConfigError, MachineError, PeerError
from plait.rounds.run_directory import RunDirectory, check_given_out
from plait.system.files import lies_in, open_plain
from plait.training.bases import LocatedBase, locate_base, locate_named_base

_MAX_TEXT_BYTES = 1 << 20
_UNSAFE = re.compile(r"[^\w.-]+")
_NOT_ASCII = re.compile(r"[^A-Za-z0-9._-]+")
_MOST_CHARACTERS = 64
_DIGITS = 6


@dataclass(frozen=True)
class Source:
    """An adapter to export.

    Attributes:
        name: result of `plain_name`, for titles and for servers.
        base: the base that it was trained on.
        card: text of the README.md beside it, if any.
        facts: rounds, clients and losses of the run that made it, by the keys of ``summary.json``.
        digest: SHA-256 of the adapter's safetensors file, hexadecimal.
        parents: the adapters that it was derived from.
        client: owner of a personalized adapter; empty for the shared one.
    """

    name: str
    spec: AdapterSpec
    state: AdapterState
    base: BaseReference
    card: str | None
    facts: Mapping[str, float]
    digest: str
    parents: tuple[Parent, ...] = ()
    client: str = ""

    @property
    def peft_type(self) -> str:
        """PEFT's name of the method, such as ``LORA``."""
        return str(self.spec.peft_config.get("peft_type"))


def open_source(path: Path, *, base: str = "", progress: Progress = lambda _: None) -> Source:
    """Read an adapter and find its base.

    Args:
        path: a run directory (its ``adapter/`` is used) or a PEFT directory.
        base: name or directory of the base, if the one that the adapter names is elsewhere or unknown.

    Raises:
        ConfigError: there is no adapter at `path`, or its base is unknown.
        BaseMismatchError: `base` is another base than the one that it was trained on.
        PeerError: the directory is not valid.
    """
    adapter = RunDirectory(path).adapter
    run, folder = (path, adapter) if adapter.is_dir() else (None, path)
    check_given_out(folder)
    if not folder.is_dir():
        raise ConfigError(f"'{path}' is not a directory, expected a run directory or a PEFT directory")
    loaded = load_peft_directory(folder)
    spec = loaded.spec()
    return Source(
        name=_name_of(path),
        spec=spec,
        state=AdapterState.from_tensors(spec.layout, loaded.tensors),
        base=_base_of(loaded, folder, base, progress),
        # A stranger's link would publish a file of the exporting user.
        card=_read_text(folder / CARD_FILE) if lies_in(folder / CARD_FILE, folder) else None,
        facts=_facts(run),
        digest=_sha256(folder / WEIGHTS_FILE),
        parents=loaded.provenance.parents if loaded.provenance else (),
    )


def locate_weights(source: Source, *, progress: Progress) -> LocatedBase:
    """The base with its weights on this disk, verified to be the one that the adapter was trained on.

    Raises:
        BaseMismatchError: another base has its name.
        ConfigError, MachineError: it is not available.
    """
    located = locate_named_base(source.base.here, where=source.name, progress=progress)
    _check_fingerprint(located, source.base.fingerprint)
    return located


def base_in_commands(base: BaseReference) -> str:
    """The name for loading the base on this machine: its hub id if it has one, else its directory."""
    if base.hub_id or not base.built_in:
        return base.name
    return str(locate_base(base.built_in).directory)


def _base_of(loaded: PeftAdapter, folder: Path, given: str, progress: Progress) -> BaseReference:
    stated = loaded.base_fingerprint
    if stated and loaded.base_name and not given:
        built_in = loaded.provenance.built_in if loaded.provenance else None
        return BaseReference(loaded.base_name, loaded.revision, stated, built_in)
    name = given or loaded.base_here
    if not name:
        raise ConfigError(f"adapter '{folder}' names no base; give --base NAME or DIRECTORY")
    if given:
        located = locate_base(given, progress=progress)
    else:
        located = locate_named_base(name, where=str(folder), progress=progress)
    if stated:
        _check_fingerprint(located, stated)
    return located.reference


def _check_fingerprint(located: LocatedBase, expected: str) -> None:
    got = located.reference.fingerprint
    if got != expected:
        raise BaseMismatchError(
            f"base '{located.reference.name}' is {got[:16]}, expected {expected[:16]}, which the adapter was trained on"
        )


def plain_name(*parts: str) -> str:
    """A name for titles and servers made from these parts: letters and digits of any script, ``.``, ``_`` and ``-``."""
    return _UNSAFE.sub("-", unicodedata.normalize("NFC", "-".join(parts))).strip("-.")[:_MOST_CHARACTERS] or "adapter"


def ascii_name(name: str) -> str:
    """`name` for a server that accepts only ASCII; different names stay different."""
    plain = _NOT_ASCII.sub("", unicodedata.normalize("NFKD", name))
    if plain == name:
        return name
    # Accents and other scripts are lost: a few digits keep the names apart.
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]
    return f"{plain.strip('-.') or 'adapter'}-{digest}"


def _name_of(path: Path) -> str:
    resolved = path.resolve()
    return plain_name(resolved.parent.name if resolved.name == "adapter" and resolved.parent.name else resolved.name)


def _read_text(path: Path) -> str | None:
    try:
        with open_plain(path) as file:
            return file.read(_MAX_TEXT_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MachineError(f"cannot read '{path}': {error.strerror or error}") from error


def _facts(run: Path | None) -> dict[str, float]:
    path = run / "summary.json" if run else None
    if path is None or not path.is_file():
        return {}
    try:
        summary: Mapping[str, Json] = parse_object(path.read_bytes(), what=f"'{path}'", max_bytes=_MAX_TEXT_BYTES)
    except (OSError, PeerError):
        # They only decorate the card: an unreadable summary counts as none.
        return {}
    wanted = ("rounds", "clients", "base_held_out_loss", "final_held_out_loss")
    return {key: float(value) for key in wanted if isinstance(value := summary.get(key), (int, float))}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MachineError(f"cannot read '{path}': {error.strerror or error}") from error
