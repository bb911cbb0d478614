"""A cache of losses measured earlier, for the same adapter on the same tokens on this machine.

Before round 1 every client evaluates the run's initial adapter, which a simulation restarted with other settings has
already seen; where that adapter changes nothing yet, as LoRA's does, so has one with another seed. A cached value is
exactly what would be computed: the name of an entry is the digest of everything that the result depends on, including
code and libraries. Holds losses and counts, no text.
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
from plait.rounds.evaluation import SequenceLosses

_FOLDER = "losses"


class RememberedLosses:
    """Losses in a folder of the cache."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / _FOLDER

    def recall(self, inputs: Sequence[bytes], measure: Callable[[], SequenceLosses]) -> SequenceLosses:
        """The losses for these inputs, measured if not cached."""
        digest = hashlib.sha256(_surroundings())
        for part in inputs:
            digest.update(len(part).to_bytes(8, "big") + part)
        path = self._folder / f"{digest.hexdigest()}.json"
        if (known := _read(path)) is not None:
            return known
        found = measure()
        # A cache that cannot be written must not end a run.
        with suppress(MachineError, OSError):
            make_private_directory(self._folder)
            write_atomically(path, found.to_bytes())
        return found


def _read(path: Path) -> SequenceLosses | None:
    if not is_ours(path):
        return None
    try:
        return SequenceLosses.from_bytes(path.read_bytes())
    except OSError:
        return None


@cache
def _surroundings() -> bytes:
    """Digest of the measuring code, the libraries, and the processor."""
    digest = hashlib.sha256(json.dumps([machine.versions(), machine.processor(), machine.cores()]).encode())
    package = Path(plait.__file__).parent
    for file in sorted(path for path in (package / "training").rglob("*") if path.suffix in (".py", ".cpp", ".json")):
        digest.update(file.read_bytes())
    return digest.digest()
