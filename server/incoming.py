"""One answer while it is being written to its file: ``TASK.part`` until it is whole, ``TASK.answer`` from then on.

The file begins with one byte that says what the answer is and the SHA-256 that was announced for it. An answer that
comes in one go is hashed as it comes; one that was resumed is hashed once, at its end. Knows nothing of other answers.
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
"""What a file has before the answer itself."""
PART_SUFFIX, ANSWER_SUFFIX = ".part", ".answer"

_STORED_BYTES = 4 << 20  # so much of an answer is handed to the disk at a time


class Incoming:
    """An answer that is being written. Safe for threads: `close` waits for a write under way.

    Args:
        path: of the ``.part`` file.
        held: bytes of this answer that are there already; with 0 the file begins anew.
        header: what the file begins with.
        size: of the whole answer, in bytes.
        offset: where the data that follow begin, at most `held`; what is there behind it is dropped.
        durable: whether the whole answer is to outlive a power cut.
        whole: called once the answer is whole.
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
        # Whoever resumes again and again, and never finishes, must not have the beginning hashed each time.
        self._hash = None if offset else hashlib.sha256()
        self._written = self._handed = offset
        self._file = path.open("r+b" if held else "w+b")
        try:
            self._file.write(header)
            self._file.seek(HEADER_BYTES + offset)
            self._file.truncate()
        except BaseException:
            self._file.close()
            raise

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._file.closed

    @property
    def missing_bytes(self) -> int:
        """What is still to come."""
        return self._size - self._written

    def write(self, data: Data) -> None:
        """Append to the answer.

        Raises:
            PeerError: more than was announced.
            MachineError: the disk is full, or the file is closed.
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
                # What was written before this call has left the file's buffer.
                begin_to_store(self._file.fileno(), HEADER_BYTES + self._handed, self._written - self._handed)
                self._handed = self._written
            if self._hash is not None:
                self._hash.update(data)
            self._written += len(data)

    def finish(self) -> bool:
        """Make the answer whole, and durable if it is to be; False, and it is gone, if its SHA-256 is another.

        Raises:
            PeerError: less than was announced; what there is stays.
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
        """Stop writing; what has come in stays for the upload to go on."""
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
