"""A client's state between tasks, on disk: one file per key, complete or absent, whatever kills the process.

Knows nothing of the meaning of the bytes.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from plait.errors import MachineError
from plait.files import cannot_write, make_private_directory, read_if_there, write_atomically


@dataclass(eq=False)
class DiskMemory:
    """A `plait.rounds.memory.Memory` in a folder.

    Attributes:
        folder: made when something is first stored, private to its owner.
        advice: what to do if it cannot be written.
    """

    folder: Path
    _: KW_ONLY
    advice: str = "free some, or give another --state"

    def load(self, key: str) -> bytes | None:
        """The bytes stored under `key`.

        Raises:
            MachineError: they exist and cannot be read.
        """
        return read_if_there(self.folder / key)

    def save(self, key: str, data: bytes) -> None:
        """Store `data` under `key`.

        Raises:
            MachineError: the disk is full or read-only; the previous value is intact.
        """
        # An adapter is stored at every task and seldom changes: reading it back is cheaper than an fsync.
        if self.load(key) == data:
            return
        try:
            make_private_directory(self.folder)
        except OSError as error:
            raise cannot_write(self.folder, error, doing="make") from error
        try:
            write_atomically(self.folder / key, data, mode=0o600)
        except MachineError as error:
            raise type(error)(f"{error}; {self.advice}") from error
