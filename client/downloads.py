"""Download the bodies of tasks: resumed after an interruption, never more than declared, checked by digest.

Keeps the last body, since the tasks of a round share one, and the beginning of an incomplete one.
"""

from __future__ import annotations

import hashlib
import io

from client.session import Backoff, Retrying, Session, TryAgainError
from client.task import MAX_BODY_BYTES, TaskHandle
from plait.errors import PeerError, PolicyError
from plait.transport.framing import Data

_TRIES = 3  # for a body that arrives damaged


class Downloads:
    """Bodies by their digest."""

    def __init__(self, retrying: Retrying, *, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._retrying = retrying
        self._max_bytes = max_bytes
        self._received = _Received(b"")
        self._whole = b""
        self.received_bytes = 0

    def fetch(self, handle: TaskHandle) -> bytes:
        """The body of a task, however often the connection breaks.

        Raises:
            Abandoned: the task is no longer needed.
            PeerError: the bytes repeatedly differ from those declared.
            PolicyError: it is larger than this node accepts.
        """
        task = handle.task
        if task.body_bytes > self._max_bytes:
            raise PolicyError(
                f"task has {task.body_bytes / 1e6:.0f} MB, but max-task-mb of this client's policy allows at most "
                f"{self._max_bytes / 1e6:.0f}; to take part, raise it in the file given with --policy"
            )
        if not task.body_bytes:
            return b""
        if self._received.digest != task.body_sha256:
            self._received, self._whole = _Received(task.body_sha256), b""  # two in memory would be one too many
        if not self._whole:
            damaged = 0

            def attempt(session: Session, backoff: Backoff) -> bytes:
                nonlocal damaged
                try:
                    return self._receive(session, handle, backoff)
                except _DamagedError as error:
                    self._received = _Received(task.body_sha256)
                    damaged += 1
                    if damaged == _TRIES:
                        raise PeerError(f"{task.doing}: download is not what the server declared: {error}") from error
                    raise TryAgainError(f"it is not what the server declared: {error}") from error

            # Unwanted: finished meanwhile, or a restarted server has yet to assign it again.
            self._whole = self._retrying.until_done(
                attempt,
                handle,
                what="download",
                unwanted=lambda offers, why: handle.give_up(why, unless_offered_since=offers),
            )
        return self._whole

    def _receive(self, session: Session, handle: TaskHandle, backoff: Backoff) -> bytes:
        task, received = handle.task, self._received
        chunks = session.download(task.body_sha256, offset=received.size)
        with handle.abandonment.cancelling(chunks.cancel):
            for chunk in chunks:
                self.received_bytes += len(chunk)
                if received.size + len(chunk) > task.body_bytes:
                    chunks.cancel()
                    raise _DamagedError(f"it is longer than {task.body_bytes} bytes")
                received.add(chunk)
                backoff.reset()
        if received.size < task.body_bytes:
            raise TryAgainError(f"broke off at {received.size} of {task.body_bytes} bytes")
        return received.checked()


class _DamagedError(Exception):
    """The bytes differ from those declared."""


class _Received:
    """The beginning of a body; assembled and hashed as it arrives, in parallel with the transfer."""

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self._bytes = io.BytesIO()
        self._hash = hashlib.sha256()

    def add(self, chunk: Data) -> None:
        self._bytes.write(chunk)
        self._hash.update(chunk)

    @property
    def size(self) -> int:
        return self._bytes.tell()

    def checked(self) -> bytes:
        if self._hash.digest() != self.digest:
            raise _DamagedError("its digest differs")
        return self._bytes.getvalue()  # the buffer itself, not a copy
