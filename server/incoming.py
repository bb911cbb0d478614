"""One answer while it is written to its file: ``TASK.part`` until it is complete, ``TASK.answer`` afterwards.

The file begins with one byte for the kind of the answer and its announced SHA-256. An answer that arrives in one go is
hashed as it arrives; a resumed one is hashed once, at its end.

Small answers of one round and kind share a file, ``INBOX/GROUP.TYPE.answers``: one write makes many durable. Each has
its length and SHA-256 before it, so that what a crash has truncated is noticed, and dropped. A record of its own
removes one, and a file of which nothing is left is deleted.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from plait.errors import MachineError, PeerError
from plait.system.files import cannot_write, fsync_directory
from plait.transport.process import begin_to_store
from plait.transport.protocol import CHUNK_BYTES, DIGEST_BYTES, Data

HEADER_BYTES = 1 + DIGEST_BYTES
"""Bytes of a file before the answer itself."""
PART_SUFFIX, ANSWER_SUFFIX = ".part", ".answer"

_STORED_BYTES = 4 << 20  # bytes of an answer handed to the disk at a time


class Incoming:
    """An answer being written, from `offset` on. Thread-safe: `close` waits for a write in progress."""

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
        path.touch(mode=0o600)
        self._file = path.open("r+b" if held else "w+b")
        try:
            self._file.write(header)
            if held:
                self._file.seek(HEADER_BYTES + offset)
                self._file.truncate()
        except BaseException:
            self._file.close()
            raise

    def write(self, data: Data) -> None:
        """Append to the answer."""
        with self._lock:
            missing_bytes = self._size - self._written
            if len(data) > missing_bytes:
                raise PeerError(f"answer has more than the {self._size} bytes that were announced")
            self._check_open()
            try:
                self._file.write(data)
            except OSError as error:
                raise cannot_write(self._path, error, needed_bytes=missing_bytes) from error
            if self._durable and self._written - self._handed >= _STORED_BYTES:
                # Earlier writes have left the file's buffer.
                begin_to_store(self._file.fileno(), HEADER_BYTES + self._handed, self._written - self._handed)
                self._handed = self._written
            if self._hash is not None:
                self._hash.update(data)
            self._written += len(data)

    def finish(self) -> bool:
        """Complete the answer, durably if required; False, and it is deleted, if its SHA-256 differs."""
        with self._lock:
            if self._written < self._size:
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
                raise cannot_write(self._path, error) from error
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


_SUFFIX = ".answers"
_REMOVED = 0
_HEAD = struct.Struct("<HHIB")  # bytes of node, task and answer; its kind
_DIGEST_BYTES = 32

Key: TypeAlias = tuple[str, str]
"""Names of node and task."""


@dataclass(frozen=True, slots=True)
class SmallAnswer:
    """A whole answer."""

    key: Key
    content: int
    data: bytes = b""

    def to_bytes(self) -> bytes:
        """As it is stored."""
        node, task_id = (name.encode() for name in self.key)
        head = _HEAD.pack(len(node), len(task_id), len(self.data), self.content)
        body = b"".join((head, node, task_id, self.data))
        return hashlib.sha256(body).digest() + body


class SmallAnswers:
    """Those of a directory; thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._ends: dict[Key, tuple[int, int, int]] = {}  # where its data ends, their size, its kind
        self._left: Counter[Path] = Counter()
        for path in directory.glob(f"*{_SUFFIX}"):
            self._replay(path)

    def __contains__(self, key: Key) -> bool:
        return key in self._ends

    def __iter__(self) -> Iterator[Key]:
        return iter(self._ends)

    def store(self, answers: Iterable[SmallAnswer]) -> None:
        """Keep answers, durably."""
        by_file: defaultdict[Path, list[SmallAnswer]] = defaultdict(list)
        for answer in answers:
            by_file[self._path(answer.key)].append(answer)
        with self._lock:
            for path, those in by_file.items():
                is_new = not path.exists()
                self._append(path, those, durable=True)
                if is_new:
                    fsync_directory(self._directory)

    def read(self, key: Key) -> tuple[int, bytes]:
        """An answer's kind, and its bytes."""
        path = self._path(key)
        try:
            end, size, content = self._ends[key]
            with path.open("rb", buffering=0) as file:
                return content, os.pread(file.fileno(), size, end - size)
        except (OSError, KeyError) as error:
            raise MachineError(f"cannot read '{path}': {error}") from error

    def remove(self, keys: Collection[Key]) -> None:
        """Remove answers that are here."""
        by_file: defaultdict[Path, list[SmallAnswer]] = defaultdict(list)
        with self._lock:
            for key in self._ends.keys() & keys:
                by_file[self._path(key)].append(SmallAnswer(key, _REMOVED))
            for path, those in by_file.items():
                if len(those) == self._left[path]:
                    path.unlink(missing_ok=True)
                    self._note(path, those, 0)
                else:
                    self._append(path, those, durable=False)

    def _append(self, path: Path, records: list[SmallAnswer], *, durable: bool) -> None:
        data = b"".join(record.to_bytes() for record in records)
        try:
            path.touch(mode=0o600)
            with path.open("ab", buffering=0) as file:
                start, rest = file.tell(), memoryview(data)
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                    if durable:
                        os.fsync(file.fileno())
                except OSError:
                    with suppress(OSError):
                        file.truncate(start)  # what follows must not stand behind half a record
                    raise
        except OSError as error:
            raise cannot_write(path, error, needed_bytes=len(data)) from error
        self._note(path, records, start)

    def _note(self, path: Path, records: Iterable[SmallAnswer], at: int) -> None:
        for record in records:
            at += _DIGEST_BYTES + _HEAD.size + sum(len(name.encode()) for name in record.key) + len(record.data)
            self._left[path] += (record.content != _REMOVED) - (record.key in self._ends)
            if record.content == _REMOVED:
                self._ends.pop(record.key, None)
            else:
                self._ends[record.key] = at, len(record.data), record.content
        if not self._left[path]:
            del self._left[path]

    def _replay(self, path: Path) -> None:
        data, at = memoryview(path.read_bytes()), 0
        while (record := _record(data[at:])) is not None:
            self._note(path, [record], at)
            at += len(record.to_bytes())
        if path not in self._left:
            path.unlink()
        elif at < len(data):
            os.truncate(path, at)

    def _path(self, key: Key) -> Path:
        return self._directory / f"{key[1].rpartition('.')[0]}{_SUFFIX}"


def _record(data: memoryview) -> SmallAnswer | None:
    """The record that these bytes begin with; None if it is not whole."""
    body = data[_DIGEST_BYTES:]
    if len(body) < _HEAD.size:
        return None
    *sizes, content = _HEAD.unpack_from(body)
    ends = [_HEAD.size + sum(sizes[:count]) for count in range(4)]
    if hashlib.sha256(body[: ends[3]]).digest() != bytes(data[:_DIGEST_BYTES]):
        return None
    node, task_id, answer = (bytes(body[start:end]) for start, end in pairwise(ends))
    return SmallAnswer((node.decode(), task_id.decode()), content, answer)
