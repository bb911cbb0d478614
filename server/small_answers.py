"""Small answers, those of one round and kind in one file, ``INBOX/GROUP.TYPE.answers``: one write makes many durable.

Each has its length and SHA-256 before it, so that what a crash has cut off is noticed, and dropped. What is removed is
so by a record of its own, and a file of which nothing is left is deleted. Knows nothing of connections.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from plait.errors import MachineError
from plait.files import cannot_write, fsync_directory

_SUFFIX = ".answers"
_REMOVED = 0
_HEAD = struct.Struct("<HHIB")  # bytes of node, task and answer; its kind
_DIGEST_BYTES = 32

Key: TypeAlias = tuple[str, str]
"""Names of node and task."""


@dataclass(frozen=True, slots=True)
class SmallAnswer:
    """A whole answer.

    Attributes:
        content: its kind, the number of a `Content` in federation.proto.
    """

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
        """Keep answers, durably.

        Raises:
            MachineError: cannot be written; none of a file's is kept then.
        """
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
        """An answer's kind, and its bytes.

        Raises:
            MachineError: it is not here, or cannot be read.
        """
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
