"""The session that a server granted, for whoever needs one, and waiting for the next while there is none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from client.calls import Calls, Chunks, Receiving
from client.effort import Effort
from plait.v1 import federation_pb2 as pb

_LOOK_S = 0.2
_HELD_S = 30.0

Began = TypeVar("Began")


class SessionOverError(Exception):
    """The connection that the session belonged to was closed here just now."""


@dataclass(frozen=True)
class Session:
    """The calls of an enrolled node.

    Attributes:
        calls: the server's, over the connection that the session belongs to.
        token: authorises the calls, 32 bytes.
        max_answer_bytes: the largest answer that the server takes.
    """

    calls: Calls
    token: bytes
    max_answer_bytes: int

    def download(self, sha256: bytes, *, offset: int) -> Chunks:
        """Ask for a body.

        Raises:
            SessionOverError: the connection is gone.
        """
        request = pb.DownloadRequest(session=self.token, sha256=sha256, offset=offset)
        return self._begin(lambda: self.calls.download(request))

    def held(self, task_id: str, sha256: bytes) -> pb.HeldReply:
        """Ask how much of an answer is there.

        Raises:
            SessionOverError: the connection is gone.
            grpc.RpcError: the call failed.
        """
        request = pb.HeldRequest(session=self.token, task_id=task_id, sha256=sha256)
        return self._begin(lambda: self.calls.held(request, timeout_s=_HELD_S))

    def upload(self, parts: Iterator[bytes]) -> Receiving:
        """Begin to send an answer, in serialised parts.

        Raises:
            SessionOverError: the connection is gone.
        """
        return self._begin(lambda: self.calls.upload(parts))

    @staticmethod
    def _begin(call: Callable[[], Began]) -> Began:
        try:
            return call()
        except ValueError as error:
            # All that gRPC says when a call begins on a channel that another thread has closed.
            raise SessionOverError from error


class CurrentSession:
    """The session of the moment, if there is one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._session: Session | None = None

    def replace(self, session: Session | None) -> None:
        """The node enrolled, or its connection is gone."""
        with self._changed:
            self._session = session
            self._changed.notify_all()

    def wait(self, effort: Effort) -> Session:
        """The session, as soon as there is one.

        Raises:
            Abandoned: the effort that needs it was called off.
        """
        with self._changed:
            while self._session is None:
                effort.check()
                self._changed.wait(_LOOK_S)
            effort.check()
            return self._session
