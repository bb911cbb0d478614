"""Answers on disk, ``INBOX/NODE/TASK.part`` while one arrives and ``.answer`` once it is durable; bodies of tasks.

Both files begin with one byte for the kind of the answer and its announced SHA-256, so that an upload can continue, and
an answer be read, after a restart. An answer that arrives in one go is hashed as it arrives; a resumed one is hashed
once, at its end.

Small answers of one round and kind share a file, ``INBOX/GROUP.TYPE.answers``: one write makes many durable. Each has
its length and SHA-256 before it, so that what a crash has truncated is noticed, and dropped. A record of its own
removes one, and a file of which nothing is left is deleted.

The bodies of tasks are held once each, by SHA-256, while any task uses them. Names of nodes and tasks are checked
before they get here.
"""

import hashlib
import os
import re
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self, TypeAlias
from urllib.parse import quote, unquote

from plait.errors import ConfigError, MachineError, PeerError
from plait.system.files import (
    begin_to_store,
    ensure_private_directory,
    failures_to,
    fsync_directory,
    map_file,
    writes_to,
)
from plait.transport.protocol import DIGEST_BYTES, Data

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
        closed: Callable[[Self], None],
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
            with writes_to(self._path, needed_bytes=missing_bytes):
                self._file.write(data)
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
            with writes_to(self._path):
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
        self._file.seek(HEADER_BYTES)
        return hashlib.file_digest(self._file, "sha256").digest()


_SUFFIX = ".answers"
_REMOVED = 0
_HEAD = struct.Struct("<HHIB")  # bytes of node, task and answer; its kind

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
        with writes_to(path, needed_bytes=len(data)):
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
        self._note(path, records, start)

    def _note(self, path: Path, records: Iterable[SmallAnswer], at: int) -> None:
        for record in records:
            at += DIGEST_BYTES + _HEAD.size + sum(len(name.encode()) for name in record.key) + len(record.data)
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
    body = data[DIGEST_BYTES:]
    if len(body) < _HEAD.size:
        return None
    *sizes, content = _HEAD.unpack_from(body)
    ends = [_HEAD.size + sum(sizes[:count]) for count in range(4)]
    if hashlib.sha256(body[: ends[3]]).digest() != bytes(data[:DIGEST_BYTES]):
        return None
    node, task_id, answer = (bytes(body[start:end]) for start, end in pairwise(ends))
    return SmallAnswer((node.decode(), task_id.decode()), content, answer)


class Bodies:
    """Counts the uses of each body; not thread-safe, its owner locks."""

    def __init__(self) -> None:
        self._by_digest: dict[bytes, bytes] = {}
        self._uses: Counter[bytes] = Counter()
        # While a body is held, no other object can have its id.
        self._digest_by_id: dict[int, bytes] = {}

    @property
    def held_bytes(self) -> int:
        """Size of all bodies together."""
        return sum(map(len, self._by_digest.values()))

    def known(self, body: bytes) -> bytes | None:
        """The SHA-256 of this very object, if it is held."""
        return self._digest_by_id.get(id(body))

    def hold(self, body: bytes, digest: bytes) -> None:
        """Count one more use of a body, whose SHA-256 is `digest`; of equal ones the first is held."""
        self._uses[digest] += 1
        self._digest_by_id[id(self._by_digest.setdefault(digest, body))] = digest

    def get(self, digest: bytes) -> bytes | None:
        """The body with this SHA-256, the original object; None if no task uses it."""
        return self._by_digest.get(digest)

    def release(self, digest: bytes) -> None:
        """Count one use less; a body without uses is dropped."""
        self._uses[digest] -= 1
        if not self._uses[digest]:
            del self._uses[digest], self._digest_by_id[id(self._by_digest.pop(digest))]


_MAPPED_BYTES = 1 << 18  # smaller answers are read, which is faster
_SAFE = re.compile(r"[A-Za-z0-9._%~-]{1,200}")


def task_id_of(group: str, message_type: str, number: int) -> str:
    """Name of a node's `number`-th task of this group and type; also the name of its files."""
    # Dots separate the three, so none may contain one.
    name = ".".join((*(quote(part, safe="").replace(".", "%2E") for part in (group, message_type)), str(number)))
    if len(name) > 200:
        raise ConfigError(f"group and message type make {len(name)} characters, expected at most 200")
    return name


def group_and_type(task_id: str) -> tuple[str, str] | None:
    """Group and message type passed to `task_id_of`; None for any other text."""
    parts = task_id.split(".")
    if len(parts) != 3 or not parts[2].isdecimal() or not _SAFE.fullmatch(task_id):
        return None
    return unquote(parts[0]), unquote(parts[1])


@dataclass(frozen=True)
class StoredAnswer:
    """The kind of an answer, a `Content` of federation.proto, and its bytes: a view of the file if they are many."""

    content: int
    data: Data


class Inbox:
    """All answers of a run."""

    def __init__(self, directory: Path, *, node_quota_bytes: int) -> None:
        self._directory = directory
        self._node_quota_bytes = node_quota_bytes
        ensure_private_directory(directory)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise MachineError(f"cannot write into '{directory}': permission denied")
        # The files here, which of them are complete, and which to delete, in memory: asking and forgetting, which
        # happen a thousand times per round, then need not wait for the disk.
        self._small = SmallAnswers(directory)
        files = {suffix: [*directory.glob(f"*/*{suffix}")] for suffix in (PART_SUFFIX, ANSWER_SUFFIX)}
        self._whole = {(file.parent.name, file.stem) for file in files[ANSWER_SUFFIX]} | {*self._small}
        self._here = {(file.parent.name, file.stem) for file in files[PART_SUFFIX]} | self._whole
        self._doomed: set[tuple[str, str]] = set()
        self._deleting = threading.Lock()
        self._open: set[Incoming] = set()

    def has(self, node: str, task_id: str) -> bool:
        """Whether the complete answer to a task is here."""
        return (node, task_id) in self._whole

    def read(self, node: str, task_id: str) -> StoredAnswer:
        """The complete answer to a task."""
        if (node, task_id) in self._small:
            return StoredAnswer(*self._small.read((node, task_id)))
        path = self._path(node, task_id, ANSWER_SUFFIX)
        # Unbuffered: a buffer's read to the end would copy all of it once more.
        with failures_to(f"read '{path}'"), path.open("rb", buffering=0) as file:
            large = os.fstat(file.fileno()).st_size >= _MAPPED_BYTES
            if large and (view := map_file(file.fileno())) is not None:
                return StoredAnswer(view[0], view[HEADER_BYTES:])
            header = file.read(HEADER_BYTES)
            data = file.readall()
        if len(header) < HEADER_BYTES:
            raise MachineError(f"'{path}' has {len(header)} bytes, expected at least {HEADER_BYTES}")
        return StoredAnswer(header[0], data)

    def held_bytes(self, node: str, task_id: str, digest: bytes) -> int:
        """Number of bytes received of the answer with this SHA-256."""
        if (node, task_id) not in self._here:
            return 0
        try:
            with self._path(node, task_id, PART_SUFFIX).open("rb") as file:
                if file.read(HEADER_BYTES)[1:] != digest:
                    return 0
                return max(file.seek(0, os.SEEK_END) - HEADER_BYTES, 0)
        except OSError:
            return 0

    def receive(
        self, node: str, task_id: str, *, content: int, digest: bytes, size: int, offset: int, durable: bool = True
    ) -> Incoming:
        """Begin or continue writing an answer at `offset`; bytes held beyond it are overwritten.

        A complete answer survives the server's process, and if `durable` a power cut.
        """
        self._make_way(node, task_id)
        held = self.held_bytes(node, task_id, digest)
        if not 0 <= offset <= held:
            raise PeerError(f"upload starts at byte {offset}, but the server holds {held}")
        path = self._path(node, task_id, PART_SUFFIX)
        self._here.add((node, task_id))
        with writes_to(path, needed_bytes=size):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            # A part with another digest is another answer to the same task, and is replaced.
            others = sum(_size_of(file) for file in path.parent.iterdir() if file != path)
            if others + size + HEADER_BYTES > self._node_quota_bytes:
                raise PeerError(f"answer of {size} bytes on top of {others}, expected {self._node_quota_bytes} in all")
            incoming = Incoming(
                path,
                held=held,
                header=bytes((content,)) + digest,
                size=size,
                offset=offset,
                durable=durable,
                whole=lambda: self._whole.add((node, task_id)),
                closed=self._open.discard,
            )
        self._open.add(incoming)
        return incoming

    def store(self, answers: Sequence[SmallAnswer]) -> None:
        """Keep whole answers, all of them durably."""
        for answer in answers:
            self._make_way(*answer.key)
        self._small.store(answers)
        keys = [answer.key for answer in answers]
        self._here.update(keys)
        self._whole.update(keys)

    def close(self) -> None:
        """Close the files of all arriving answers, once no thread writes any more; their bytes stay."""
        for incoming in list(self._open):
            incoming.close()

    def remove(self, node: str, task_id: str) -> None:
        """Forget an answer; `sweep` deletes it."""
        self._whole.discard((node, task_id))
        if (node, task_id) in self._here:
            self._here.discard((node, task_id))
            self._doomed.add((node, task_id))

    def remove_older(self, group: str, message_type: str, *, but: Callable[[str, str], bool]) -> None:
        """Forget the answers of this message type in groups before this one; `sweep` deletes them."""
        for node, task_id in list(self._here):
            found = group_and_type(task_id)
            if found is None or found[1] != message_type or found[0] == group or but(node, task_id):
                continue
            if not is_later(found[0], than=group):
                self.remove(node, task_id)

    @property
    def needs_sweep(self) -> bool:
        """Whether anything is forgotten but not yet deleted."""
        return bool(self._doomed)

    def sweep(self) -> None:
        """Delete forgotten answers; takes as long as the disk does."""
        with self._deleting:
            small = [key for key in list(self._doomed) if key in self._small]
            self._doomed.difference_update(small)
            self._small.remove(small)
        while self._doomed:
            with self._deleting:
                if self._doomed:
                    self._delete(*self._doomed.pop())

    def _make_way(self, node: str, task_id: str) -> None:
        """Delete forgotten files of a task that is assigned again."""
        with self._deleting:
            if (node, task_id) in self._doomed:
                self._doomed.discard((node, task_id))
                self._delete(node, task_id)

    def _delete(self, node: str, task_id: str) -> None:
        self._small.remove([(node, task_id)])
        for suffix in (PART_SUFFIX, ANSWER_SUFFIX):
            with suppress(OSError):
                self._path(node, task_id, suffix).unlink(missing_ok=True)

    def _path(self, node: str, task_id: str, suffix: str) -> Path:
        return self._directory / node / f"{task_id}{suffix}"


def is_later(group: str, *, than: str) -> bool:
    """Whether a group is a later round; groups that are not round numbers have no order."""
    return group.isdecimal() and than.isdecimal() and int(group) > int(than)


def _size_of(file: Path) -> int:
    # Forgotten files are deleted meanwhile.
    with suppress(FileNotFoundError):
        return file.stat().st_size
    return 0
