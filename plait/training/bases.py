"""Find a base: a built-in name, a local Hugging Face directory, a GGUF file, or a hub id; as a directory on this disk.

Only safetensors are read; nothing is unpickled.
"""

import base64
import hashlib
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from plait.adapters import BaseReference, fingerprint_base
from plait.adapters.spec import HUB_ID, ORIGINS
from plait.data import Progress
from plait.errors import BaseMismatchError, ConfigError, MachineError, did_you_mean
from plait.settings.choice import Choices
from plait.system.files import at_home, cache_directory, is_ours, is_there, make_private_directory, write_atomically

CheckSize = Callable[[str, int], None]
"""Called with the name and size in bytes of a base before it is downloaded from the hub; may refuse."""


@dataclass(frozen=True)
class LocatedBase:
    """A base on this disk, with its public name and its fingerprint."""

    directory: Path
    reference: BaseReference

    def check(self, fingerprint: str | None) -> None:
        """Refuse another base than the one that an adapter states to be trained on; BaseMismatchError."""
        got = self.reference.fingerprint
        if fingerprint not in (None, got):
            raise BaseMismatchError(
                f"base '{self.reference.name}' is {got[:16]}, expected {fingerprint[:16]}, which the adapter was "
                "trained on"
            )


def _cache():
    from plait.training import base_cache  # the hub's library, which few bases need

    return base_cache


BUILT_IN: Choices[Callable[[Progress], Path]] = Choices(
    (("smollm2-135m", "minilm-l6"), lambda: {"smollm2-135m": _cache().smollm2, "minilm-l6": _cache().minilm}),
    (("tiny",), lambda: {"tiny": unpack_tiny}),
)

# A Flower App Bundle accepts no binary files, so files that are not JSON are in `packed.json`: file name → base64.
_TINY, _PACKED = Path(__file__).parent / "tiny_base", "packed.json"
_KNOWN_CONFIGS = Path(__file__).parent / "known_configs"


def locate_base(
    name: str,
    *,
    progress: Progress = lambda _: None,
    check_size: CheckSize = lambda _what, _size: None,
) -> LocatedBase:
    """Fingerprint a built-in base, directory, GGUF file or hub id (``org/model@revision``); download it if missing.

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
        return LocatedBase(directory, BaseReference(ORIGINS[name].hub_id or name, None, fingerprint, name))
    # A relative path means nothing to others; the directory does, at least on this machine.
    known_as, revision = _on_the_hub(name) if not Path(name).exists() else ("", "")
    return LocatedBase(directory, BaseReference(known_as or str(directory), revision or None, fingerprint))


def check_base_name(name: str, *, known: Collection[str] = ()) -> None:
    """Refuse a name that `locate_base` would refuse, without looking for the base; `known` are those of configs."""
    if name not in BUILT_IN and not is_there(at_home(name)) and not _on_the_hub(name)[0]:
        names = list(dict.fromkeys((*known, *BUILT_IN)))
        raise ConfigError(
            f"base is '{name}', expected a directory, a GGUF file, a hub id (org/model) or one of {', '.join(names)}"
            f"{did_you_mean(name, names)}"
        )


def _directory_of(
    name: str,
    progress: Progress = lambda _: None,
    check_size: CheckSize = lambda _what, _size: None,
    *,
    config_only: bool = False,
) -> Path:
    if name in BUILT_IN:
        quiet_libraries()
        return BUILT_IN[name](progress)
    path = at_home(name)
    if path.is_dir():
        return path.resolve()
    if path.is_file():
        quiet_libraries()
        return _cache().base_of_gguf(path.resolve(), progress=progress)
    check_base_name(name)
    progress(f"looking for {name} in the hub cache, then on the hub")
    return _cache().hub_download(*_on_the_hub(name), progress, check_size, config_only=config_only)


def unpack_tiny(_: object = None) -> Path:
    """The built-in base `tiny`, which `simulations/tiny_base/make.py` wrote, unpacked."""
    files = {path.name: path.read_bytes() for path in sorted(_TINY.glob("*.json"))}
    # The cache is shared with other versions of plait, which may have another one.
    digest = hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in files.values())).hexdigest()
    target = cache_directory() / "bases" / f"tiny-{digest[:12]}"
    if is_ours(target):
        return target
    packed = cast("dict[str, str]", json.loads(files.pop(_PACKED)))
    files.update({name: base64.b64decode(text) for name, text in packed.items()})
    try:
        make_private_directory(target.parent)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tiny.") as aside:
            folder = Path(aside) / target.name
            folder.mkdir(mode=0o700)
            for name, data in files.items():
                write_atomically(folder / name, data)
            folder.rename(target)
    except OSError as error:
        # Many workers may start at once; the first one has written the same files.
        if not is_ours(target):
            raise MachineError(f"cannot write '{target}': {error.strerror or error}; remove what is there") from error
    return target


def _on_the_hub(name: str) -> tuple[str, str]:
    """The id and the revision of a base on the hub; the id is empty for another name."""
    hub_id, _, revision = name.partition("@")
    is_one = hub_id.count("/") == 1 and not hub_id.startswith((".", "/", "~")) and not name.lower().endswith(".gguf")
    return (hub_id, revision) if is_one else ("", "")


def locate_named_base(name: str | None, *, given: str = "", where: str, progress: Progress) -> LocatedBase:
    """The base that is given, or else one that an untrusted directory names: that is never downloaded."""
    if given:
        return locate_base(given, progress=progress)
    if not name:
        raise ConfigError(f"adapter '{where}' names no base; give --base NAME or DIRECTORY")
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
    return base_at_hand(name) is not None


def base_at_hand(name: str) -> Path | None:
    """The directory of a base that is already on this disk; None if it would have to be downloaded first."""
    if name == "tiny" or (name == "minilm-l6" and _cache().MINILM.is_here):
        return BUILT_IN[name](lambda _: None)
    here: Path | None = cache_directory() / "bases" / name if name in BUILT_IN else at_home(name)
    if name not in BUILT_IN and not here.is_dir():
        here = _cache().gguf_directory(here) if here.is_file() else _cache().cached_snapshot(*_on_the_hub(name))
    return here if here and (here / "config.json").is_file() else None


def is_known_to_all(name: str) -> bool:
    """Whether a name means the same base on every machine: a built-in or a hub id, not a directory or a file."""
    return name in BUILT_IN or (HUB_ID.fullmatch(_on_the_hub(name)[0]) is not None and not Path(name).exists())


def locate_config(name: str) -> Path:
    """The directory of a base's config, without its weights; well-known models' configs come with plait."""
    known = {path.stem: path for path in sorted(_KNOWN_CONFIGS.glob("*.json"))}
    if name in known:
        return known[name]
    check_base_name(name, known=known)
    return _directory_of(name, config_only=True)


def quiet_libraries() -> None:
    """Keep transformers, tokenizers and the hub from printing or phoning home; the user's own settings win."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if loaded := sys.modules.get("transformers"):
        loaded.utils.logging.set_verbosity_error()
        loaded.utils.logging.disable_progress_bar()
