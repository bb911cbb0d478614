"""One answer while it is written to its file: ``TASK.part`` until it is complete, ``TASK.answer`` afterwards.

The file begins with one byte for the kind of the answer and its announced SHA-256. An answer that arrives in one go is
hashed as it arrives; a resumed one is hashed once, at its end. Knows nothing of other answers.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from plait.errors import MachineError, PeerError
from plait.files import begin_to_store, cannot_write, fsync_directory
from plait.transport.framing import Data
from plait.transport.protocol import CHUNK_BYTES, DIGEST_BYTES

HEADER_BYTES = 1 + DIGEST_BYTES
"""Bytes of a file before the answer itself."""
PART_SUFFIX, ANSWER_SUFFIX = ".part", ".answer"

_STORED_BYTES = 4 << 20  # bytes of an answer handed to the disk at a time


class Incoming:
    """An answer being written. Thread-safe: `close` waits for a write in progress.

    Args:
        path: of the ``.part`` file.
        held: bytes of this answer that exist already; with 0 the file is restarted.
        size: of the whole answer, in bytes.
        offset: start of the following data, at most `held`; bytes beyond it are dropped.
        durable: whether the complete answer must survive a power cut.
        whole: called once the answer is complete.
        closed: called with this object once its file is closed.

    Raises:
        OSError: the file cannot be opened or written.
    """

    def __init__(
        self,
        path: Path,
        *,
        held: int,
        header: bytes,
        size: int,
        offset: int,
        durable: bool,
        whole: Callable[[], None],
        closed: Callable[[Incoming], None],
    ) -> None:
        self._path = path
        self._digest = header[1:]
        self._size = size
        self._durable = durable
        self._whole = whole
        self._closed = closed
        self._lock = threading.RLock()
        # A node that resumes again and again without finishing must not cause the beginning to be hashed each time.
        self._hash = None if offset else hashlib.sha256()
        self._written = self._handed = offset
        self._file = path.open("r+b" if held else "w+b")
        try:
            self._file.write(header)
            if held:
                self._file.seek(HEADER_BYTES + offset)
                self._file.truncate()
        except BaseException:
            self._file.close()
            raise

    @property
    def missing_bytes(self) -> int:
        """Bytes still to come."""
        return self._size - self._written

    def write(self, data: Data) -> None:
        """Append to the answer.

        Raises:
            PeerError: more than was announced.
            MachineError: the disk is full or the file is closed.
        """
        with self._lock:
            if len(data) > self.missing_bytes:
                raise PeerError(f"answer has more than the {self._size} bytes that were announced")
            self._check_open()
            try:
                self._file.write(data)
            except OSError as error:
                raise cannot_write(self._path, error, needed_bytes=self.missing_bytes) from error
            if self._durable and self._written - self._handed >= _STORED_BYTES:
                # Earlier writes have left the file's buffer.
                begin_to_store(self._file.fileno(), HEADER_BYTES + self._handed, self._written - self._handed)
                self._handed = self._written
            if self._hash is not None:
                self._hash.update(data)
            self._written += len(data)

    def finish(self) -> bool:
        """Complete the answer, durably if required; False, and it is deleted, if its SHA-256 differs.

        Raises:
            PeerError: less than announced; the bytes stay.
            MachineError: cannot be written.
        """
        with self._lock:
            if self.missing_bytes:
                raise PeerError(f"answer ends after {self._written} bytes, expected {self._size}")
            self._check_open()
            try:
                if self._sha256() != self._digest:
                    self.close()
                    self._path.unlink(missing_ok=True)
                    return False
                self._file.flush()
                if self._durable:
                    os.fsync(self._file.fileno())
                self.close()
                self._path.replace(self._path.with_suffix(ANSWER_SUFFIX))
                if self._durable:
                    fsync_directory(self._path.parent)
                self._whole()
            except OSError as error:
                raise cannot_write(self._path, error, needed_bytes=self.missing_bytes) from error
            return True

    def close(self) -> None:
        """Stop writing; the bytes received stay for the upload to continue."""
        with self._lock:
            with suppress(OSError):
                self._file.close()
            self._closed(self)

    def _check_open(self) -> None:
        if self._file.closed:
            raise MachineError(f"cannot write '{self._path}': the server stops")

    def _sha256(self) -> bytes:
        if self._hash is not None:
            return self._hash.digest()
        hashed = hashlib.sha256()
        self._file.seek(HEADER_BYTES)
        while chunk := self._file.read(CHUNK_BYTES):
            hashed.update(chunk)
        return hashed.digest()
