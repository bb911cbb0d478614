"""Answers on disk, ``INBOX/NODE/TASK.part`` while one arrives and ``.answer`` once it is durable; bodies of tasks.

Both files begin with one byte for the kind of the answer and its announced SHA-256, so that an upload can continue, and
an answer be read, after a restart. Small answers share files (`incoming`). The bodies of tasks are held once each, by
SHA-256, while any task uses them. Names of nodes and tasks are checked before they get here.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from plait.errors import ConfigError, MachineError, PeerError
from plait.system.files import cannot_write, make_private_directory
from plait.transport.process import map_file
from plait.transport.protocol import Data
from server.incoming import ANSWER_SUFFIX, HEADER_BYTES, PART_SUFFIX, Incoming, SmallAnswer, SmallAnswers


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
        try:
            make_private_directory(directory)
        except OSError as error:
            raise cannot_write(directory, error, doing="make") from error
        if not os.access(directory, os.W_OK | os.X_OK):
            raise MachineError(f"cannot write into '{directory}': permission denied")
        # The files here, which of them are complete, and which to delete, in memory: asking and forgetting, which
        # happen a thousand times per round, then need not wait for the disk.
        found = list(self._all())
        self._small = SmallAnswers(directory)
        self._here = {(node, task) for node, task, _ in found} | {*self._small}
        self._whole = {(node, task) for node, task, suffix in found if suffix == ANSWER_SUFFIX} | {*self._small}
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
        try:
            # Unbuffered: a buffer's read to the end would copy all of it once more.
            with path.open("rb", buffering=0) as file:
                large = os.fstat(file.fileno()).st_size >= _MAPPED_BYTES
                if large and (view := map_file(file.fileno())) is not None:
                    return StoredAnswer(view[0], view[HEADER_BYTES:])
                header = file.read(HEADER_BYTES)
                data = file.readall()
        except OSError as error:
            raise MachineError(f"cannot read '{path}': {error.strerror or error}") from error
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
        try:
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
        except OSError as error:
            raise cannot_write(path, error, needed_bytes=size) from error
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

    def _all(self) -> Iterator[tuple[str, str, str]]:
        for directory in list(self._directory.iterdir()):
            if directory.is_dir():
                for file in list(directory.iterdir()):
                    if file.suffix in (PART_SUFFIX, ANSWER_SUFFIX):
                        yield directory.name, file.stem, file.suffix

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
