"""What a client keeps between tasks, on disk: a file a key, whole or not there, whatever kills the process.

Knows nothing of what the bytes mean.
"""

from __future__ import annotations

from pathlib import Path

from plait.errors import MachineError
from plait.files import cannot_write, make_private_directory, read_if_there, write_atomically


class DiskMemory:
    """A `plait.rounds.memory.Memory` in a folder.

    Args:
        folder: made when something is first kept, for its owner alone.
        advice: what to do where it cannot be written.
    """

    def __init__(self, folder: Path, *, advice: str = "free some, or give another --state") -> None:
        self._folder = folder
        self._advice = advice

    def load(self, key: str) -> bytes | None:
        """The bytes kept under `key`.

        Raises:
            MachineError: they are there and cannot be read.
        """
        return read_if_there(self._folder / key)

    def save(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`.

        Raises:
            MachineError: the disk is full or read-only; what was kept before is still there.
        """
        # An adapter is kept at every task and seldom changes between two: reading it back is cheaper than an fsync.
        if self.load(key) == data:
            return
        try:
            make_private_directory(self._folder)
        except OSError as error:
            raise cannot_write(self._folder, error, doing="make") from error
        try:
            write_atomically(self._folder / key, data, mode=0o600)
        except MachineError as error:
            raise type(error)(f"{error}; {self._advice}") from error
