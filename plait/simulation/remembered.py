"""Losses that were measured before, of the same adapter on the same tokens on this machine: not measured anew.

Before round 1 every client judges the adapter that the run begins with, which a simulation that is started again with
other settings has seen already. What is found is exactly what would be computed: the name of an entry is the digest of
all that the result depends on, the code and the libraries included. Holds losses and counts, no text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import plait
from plait import machine
from plait.errors import MachineError
from plait.files import is_ours, make_private_directory, write_atomically
from plait.rounds.evaluation import Judgement

_FOLDER = "losses"


class RememberedLosses:
    """Losses in a folder of the cache.

    Args:
        cache: the cache directory.
    """

    def __init__(self, cache: Path) -> None:
        self._folder = cache / _FOLDER

    def recall(self, inputs: Sequence[bytes], measure: Callable[[], Judgement]) -> Judgement:
        """The losses under these inputs, measured where they are not known.

        Args:
            inputs: all that they depend on but code, libraries and processor.
            measure: does so.
        """
        digest = hashlib.sha256(_surroundings())
        for part in inputs:
            digest.update(len(part).to_bytes(8, "big") + part)
        path = self._folder / f"{digest.hexdigest()}.json"
        if (known := _read(path)) is not None:
            return known
        found = measure()
        # A cache that cannot be written is no reason to end a run.
        with suppress(MachineError, OSError):
            make_private_directory(self._folder)
            write_atomically(path, found.to_bytes())
        return found


def _read(path: Path) -> Judgement | None:
    if not is_ours(path):
        return None
    try:
        return Judgement.from_bytes(path.read_bytes())
    except OSError:
        return None


@cache
def _surroundings() -> bytes:
    """Digest of the code that measures, of the libraries, and of the processor."""
    digest = hashlib.sha256(json.dumps([machine.versions(), machine.processor(), machine.cores()]).encode())
    package = Path(plait.__file__).parent
    for file in sorted((package / "training").rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.digest()
