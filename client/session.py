"""The session granted by a server, its calls, and waiting for the next one.

Bodies and answers bypass protobuf, which would copy them twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar, cast

import grpc

from plait.abandon import Abandonment
from plait.transport.framing import Data, unpack_chunk
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
    """

    def __init__(self, channel: grpc.Channel, welcome: pb.Welcome) -> None:
        self.token = welcome.session
        self.max_answer_bytes = welcome.max_answer_bytes
        self._stub = FederationStub(channel)
        self._download = channel.unary_stream(
            f"{_SERVICE}/Download",
            request_serializer=pb.DownloadRequest.SerializeToString,
            response_deserializer=unpack_chunk,
        )
        self._upload = channel.stream_unary(f"{_SERVICE}/Upload", response_deserializer=pb.Receipt.FromString)

    def download(self, sha256: bytes, *, offset: int) -> Chunks:
        """Request a body.

        Raises:
            SessionOverError: the connection is gone.
        """
        request = pb.DownloadRequest(session=self.token, sha256=sha256, offset=offset)
        return cast("Chunks", _begin(lambda: self._download(request)))

    def held(self, task_id: str, sha256: bytes) -> pb.HeldReply:
        """Ask how much of an answer the server has.

        Raises:
            SessionOverError: the connection is gone.
            grpc.RpcError: the call failed.
        """
        request = pb.HeldRequest(session=self.token, task_id=task_id, sha256=sha256)
        return _begin(lambda: cast("pb.HeldReply", self._stub.Held(request, timeout=_HELD_S)))

    def upload(self, parts: Iterator[bytes]) -> Receiving:
        """Begin to send an answer, in serialised parts.

        Raises:
            SessionOverError: the connection is gone.
        """
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
            self._session = session
            self._changed.notify_all()

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
