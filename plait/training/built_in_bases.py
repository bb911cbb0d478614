"""The built-in base that comes with plait."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from pathlib import Path
from typing import cast

from plait.data.cache import cache_directory
from plait.errors import MachineError
from plait.files import is_ours, make_private_directory, write_atomically

# A Flower App Bundle accepts no binary files, so files that are not JSON are in `packed.json`: file name → base64.
_TINY, _PACKED = Path(__file__).parent / "tiny_base", "packed.json"


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
