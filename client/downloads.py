"""Fetch the bodies of tasks: from where it broke off, never more than was declared, checked by digest.

The last body is kept, since the tasks of a round share one.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import cast

import grpc

from client.backoff import Backoff
from client.calls import what_failed
from client.effort import Effort
from client.session import CurrentSession, SessionOverError
from client.task import MAX_BODY_BYTES
from plait.errors import PeerError, PolicyError
from plait.transport.framing import Data

_TRIES = 3  # of a body that comes damaged


class _DamagedError(Exception):
    """The bytes are not those that were declared."""


class Downloads:
    """Bodies by their digest.

    Args:
        sessions: whom to ask.
        backoff: makes the waits of one download.
        trouble: told of what will be tried again.
        max_bytes: larger bodies are not fetched.
    """

    def __init__(
        self,
        sessions: CurrentSession,
        *,
        backoff: Callable[[], Backoff],
        trouble: Callable[[str], None],
        max_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._max_bytes = max_bytes
        self._sessions = sessions
        self._backoff = backoff
        self._trouble = trouble
        self._kept: tuple[bytes, bytes] = (b"", b"")
        self.received_bytes = 0

    def fetch(self, effort: Effort) -> bytes:
        """The body of a task, however often the connection breaks meanwhile.

        Raises:
            Abandoned: the task was withdrawn.
            PeerError: what comes is not what was declared, again and again.
            PolicyError: it is larger than what this node holds.
        """
        task = effort.task
        if task.body_bytes > self._max_bytes:
            raise PolicyError(
                f"task has {task.body_bytes / 1e6:.0f} MB, but max-task-mb of this client's policy allows at most "
                f"{self._max_bytes / 1e6:.0f}; to take part, raise it in the file given with --policy"
            )
        if not task.body_bytes:
            return b""
        if self._kept[0] != task.body_sha256:
            self._kept = (b"", b"")  # two bodies in memory would be one too many
            self._kept = (task.body_sha256, self._fetch_anew(effort))
        return self._kept[1]

    def _fetch_anew(self, effort: Effort) -> bytes:
        task, backoff, received, tries = effort.task, self._backoff(), _Received(), 0
        while True:
            before, offers = received.size, effort.offers
            try:
                self._receive(effort, received)
                if received.size == task.body_bytes:
                    if received.sha256 != task.body_sha256:
                        raise _DamagedError("its digest is another")
                    return received.together()
                cause = f"{task.doing}: download broke off at {received.size} of {task.body_bytes} bytes"
            except _DamagedError as error:
                received = _Received()
                tries += 1
                cause = f"{task.doing}: download is not what the server declared: {error}"
                if tries == _TRIES:
                    raise PeerError(cause) from error
            except SessionOverError:
                continue
            except grpc.RpcError as error:
                if cast("grpc.Call", error).code() is grpc.StatusCode.NOT_FOUND:
                    # Settled meanwhile, or not yet given out again by a server that was restarted: then it comes anew.
                    effort.call_off(what_failed(error), unless_offered_since=offers)
                cause = f"{task.doing}: download: {what_failed(error)}"
            effort.check()
            self._trouble(cause)
            if received.size > before:
                backoff.reset()
            effort.pause(backoff.next_s())

    def _receive(self, effort: Effort, received: _Received) -> None:
        session, task = self._sessions.wait(effort), effort.task
        chunks = session.download(task.body_sha256, offset=received.size)
        with effort.cancelling(chunks.cancel):
            for chunk in chunks:
                self.received_bytes += len(chunk)
                if received.size + len(chunk) > task.body_bytes:
                    chunks.cancel()
                    raise _DamagedError(f"it is longer than {task.body_bytes} bytes")
                received.add(chunk)


class _Received:
    """The beginning of a body; put together and hashed as it comes, so that this goes on beside the transfer."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        self._hash = hashlib.sha256()

    def add(self, chunk: Data) -> None:
        self._bytes.write(chunk)
        self._hash.update(chunk)

    @property
    def size(self) -> int:
        return self._bytes.tell()

    @property
    def sha256(self) -> bytes:
        return self._hash.digest()

    def together(self) -> bytes:
        return self._bytes.getvalue()  # the buffer itself, not a copy
