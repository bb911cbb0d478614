"""The session granted by a server, its calls, and waiting for the next one.

Bodies and large answers bypass protobuf, which would copy them twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Protocol, TypeVar, cast

import grpc

from plait.abandon import Abandonment
from plait.transport.framing import Data, unpack_chunk
from plait.transport.protocol import HEAD_BYTES
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import FederationStub

_LOOK_S = 0.2
_HELD_S = 30.0
_SERVICE = f"/{pb.DESCRIPTOR.services_by_name['Federation'].full_name}"

Begun = TypeVar("Begun")


class SessionOverError(Exception):
    """The session's connection was just closed here."""


class Chunks(Protocol):
    """A body being received."""

    def __iter__(self) -> Iterator[Data]: ...
    def cancel(self) -> bool:
        """Stop receiving."""
        ...


class Receiving(Protocol):
    """An answer being sent."""

    def result(self) -> pb.Receipt:
        """Wait for the receipt."""
        ...

    def cancel(self) -> bool:
        """Stop sending."""
        ...


class Session:
    """The calls of an enrolled node.

    Args:
        welcome: the server's, with the token that authorises the calls.
        send: sends a message over the long call.

    Raises:
        SessionOverError: from a call: the connection is gone.
        grpc.RpcError: from `held`: the call failed.
    """

    def __init__(self, channel: grpc.Channel, welcome: pb.Welcome, *, send: Callable[[pb.FromNode], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._given: set[str] = set()
        self._waiting: dict[str, Future[pb.Receipt]] = {}
        self._is_over = False
        self.token = welcome.session
        self.max_answer_bytes = welcome.max_answer_bytes
        self._stub = FederationStub(channel)
        self._download = channel.unary_stream(
            f"{_SERVICE}/Download",
            request_serializer=pb.DownloadRequest.SerializeToString,
            response_deserializer=unpack_chunk,
        )
        self._upload = channel.stream_unary(f"{_SERVICE}/Upload", response_deserializer=pb.Receipt.FromString)

    def given(self, task_id: str) -> None:
        """A task came over the long call."""
        with self._lock:
            self._given.add(task_id)

    def withdrawn(self, task_id: str) -> None:
        """No answer to a task is needed."""
        with self._lock:
            self._given.discard(task_id)

    def answer(self, task_id: str, content: str, data: Data) -> Receiving | None:
        """Begin to send a whole small answer over the long call; None if it has to be uploaded."""
        with self._lock:
            if self._is_over:
                raise SessionOverError
            was_given = task_id in self._given
            self._given.discard(task_id)
            if not was_given or len(data) > HEAD_BYTES:
                return None
            receipt = self._waiting[task_id] = Future()
        self._send(pb.FromNode(answer=pb.Answer(task_id=task_id, content=content, data=bytes(data))))
        return receipt

    def receive(self, receipt: pb.Receipt) -> None:
        """A receipt came over the long call."""
        with self._lock:
            waiting = self._waiting.pop(receipt.task_id, None)
        if waiting is not None and waiting.set_running_or_notify_cancel():
            waiting.set_result(receipt)

    def end(self) -> None:
        """The long call has ended, or the node works for another run: no receipt will come."""
        with self._lock:
            self._is_over = True
            for waiting in self._waiting.values():
                if waiting.set_running_or_notify_cancel():
                    waiting.set_exception(SessionOverError())

    def download(self, sha256: bytes, *, offset: int) -> Chunks:
        """Request a body."""
        request = pb.DownloadRequest(session=self.token, sha256=sha256, offset=offset)
        return cast("Chunks", _begin(lambda: self._download(request)))

    def held(self, task_id: str, sha256: bytes) -> pb.HeldReply:
        """Ask how much of an answer the server has."""
        request = pb.HeldRequest(session=self.token, task_id=task_id, sha256=sha256)
        return _begin(lambda: cast("pb.HeldReply", self._stub.Held(request, timeout=_HELD_S)))

    def upload(self, parts: Iterator[bytes]) -> Receiving:
        """Begin to send an answer, in serialised parts."""
        return cast("Receiving", _begin(lambda: self._upload.future(parts)))


def _begin(call: Callable[[], Begun]) -> Begun:
    try:
        return call()
    except ValueError as error:
        # gRPC's only message when a call begins on a channel that another thread has closed.
        raise SessionOverError from error


class CurrentSession:
    """The current session, if there is one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._session: Session | None = None

    def replace(self, session: Session | None) -> None:
        """The node has enrolled, or its connection is lost."""
        with self._changed:
            before, self._session = self._session, session
            self._changed.notify_all()
        if before is not None:
            before.end()

    def wait(self, abandonment: Abandonment) -> Session:
        """The session, as soon as there is one.

        Raises:
            Abandoned: the work that needs it should stop.
        """
        with self._changed:
            while self._session is None:
                abandonment.check()
                self._changed.wait(_LOOK_S)
            abandonment.check()
            return self._session
