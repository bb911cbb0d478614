"""What a name says of a base: whether it is on this disk, known to all, or of a model whose config is enough."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

from plait.data import Progress
from plait.errors import ConfigError, did_you_mean
from plait.system.cache import cache_directory
from plait.system.files import at_home, is_there
from plait.training.base_cache import gguf_directory, has_minilm, hub_download
from plait.training.bases import BUILT_IN, LocatedBase, directory_of, locate_base, on_the_hub

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_KNOWN_CONFIGS = Path(__file__).parent / "known_configs"


def locate_named_base(name: str, *, where: str, progress: Progress = lambda _: None) -> LocatedBase:
    """A base that an untrusted directory names: it is looked up on this disk and never downloaded."""
    if not is_on_disk(name):
        raise ConfigError(
            f"'{where}' names base '{name}', which is not on this disk, and plait downloads no base that only a "
            f"directory names; to download it, add --base {shlex.quote(name)}"
        )
    return locate_base(name, progress=progress)


def is_on_disk(name: str) -> bool:
    """Whether nothing would have to be downloaded for a base, or nothing is one of that name."""
    if name not in BUILT_IN and (is_there(at_home(name)) or not on_the_hub(name)[0]):
        return True
    if name == "minilm-l6":
        return has_minilm()
    return base_at_hand(name) is not None


def base_at_hand(name: str) -> Path | None:
    """The directory of a base that is already on this disk; None if it would have to be downloaded first."""
    from huggingface_hub import snapshot_download

    if name == "tiny":
        return BUILT_IN[name](lambda _: None)
    directory = cache_directory() / "bases" / name if name in BUILT_IN else at_home(name)
    if name not in BUILT_IN and directory.is_file():
        directory = gguf_directory(directory)
    hub_id, revision = on_the_hub(name)
    if name not in BUILT_IN and not directory.is_dir() and hub_id:
        with contextlib.suppress(OSError, ValueError):
            directory = Path(snapshot_download(hub_id, revision=revision or None, local_files_only=True))
    return directory if (directory / "config.json").is_file() else None


def is_known_to_all(name: str) -> bool:
    """Whether a name means the same base on every machine: a built-in or a hub id, not a directory or a file."""
    return name in BUILT_IN or (_HUB_ID.fullmatch(on_the_hub(name)[0]) is not None and not Path(name).exists())


def locate_config(name: str) -> Path:
    """The directory of a base's config, without downloading its weights: enough for shapes and costs.

    Besides what `locate_base` finds, it finds the well-known models whose config comes with plait.
    """
    known = {path.stem: path for path in sorted(_KNOWN_CONFIGS.glob("*.json"))}
    if name in known:
        return known[name]
    if name in BUILT_IN or is_there(at_home(name)):
        return directory_of(name, lambda _: None, lambda _what, _size: None)
    if on_the_hub(name)[0]:
        return hub_download(*on_the_hub(name), patterns=["config.json"])
    everything = [*known, *(built_in for built_in in BUILT_IN if built_in not in known)]
    raise ConfigError(
        f"base is '{name}', expected a directory, a GGUF file, a hub id (org/model) or one of {', '.join(everything)}"
        f"{did_you_mean(name, everything)}"
    )
