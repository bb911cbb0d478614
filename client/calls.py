"""The calls of the federation protocol over one channel.

Bodies and answers go past protobuf, which would copy them twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, cast

import grpc

from client.wording import shown
from plait.transport.framing import Data, unpack_chunk
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import FederationStub

_SERVICE = f"/{pb.DESCRIPTOR.services_by_name['Federation'].full_name}"


# Codes whose text is the server's own; of the others gRPC says what happened inside it.
_TOLD_BY_THE_SERVER = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
_IN_PLAIN_WORDS = {
    grpc.StatusCode.CANCELLED: "the call was broken off",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the server did not answer in time",
    grpc.StatusCode.UNAVAILABLE: "the connection to the server is lost",
    grpc.StatusCode.UNIMPLEMENTED: "the server does not know this call; install the plait version that it runs",
}


def what_failed(error: grpc.RpcError) -> str:
    """Why a call failed, in plain words on one line."""
    call = cast("grpc.Call", error)
    details, code = shown(call.details() or ""), call.code()
    if details and (code in _TOLD_BY_THE_SERVER or details.startswith("server cannot")):
        return details
    return _IN_PLAIN_WORDS.get(code, "the server failed at this call; its log may say why")


class Attending(Protocol):
    """The node's long call."""

    def __iter__(self) -> Attending: ...
    def __next__(self) -> pb.ToNode: ...
    def cancel(self) -> bool:
        """Hang up."""
        ...


class Chunks(Protocol):
    """A body that is coming in."""

    def __iter__(self) -> Chunks: ...
    def __next__(self) -> Data: ...
    def cancel(self) -> bool:
        """Want no more."""
        ...


class Receiving(Protocol):
    """An answer that the server is taking."""

    def result(self) -> pb.Receipt:
        """Wait for the receipt."""
        ...

    def cancel(self) -> bool:
        """Send no more."""
        ...


class Calls:
    """What a node asks of its server.

    Args:
        channel: the way there.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = FederationStub(channel)
        self._download = channel.unary_stream(
            f"{_SERVICE}/Download",
            request_serializer=pb.DownloadRequest.SerializeToString,
            response_deserializer=unpack_chunk,
        )
        self._upload = channel.stream_unary(f"{_SERVICE}/Upload", response_deserializer=pb.Receipt.FromString)

    def attend(self, said: Iterator[pb.FromNode]) -> Attending:
        """Begin the long call."""
        return cast("Attending", self._stub.Attend(said))

    def download(self, request: pb.DownloadRequest) -> Chunks:
        """Begin to fetch a body."""
        return cast("Chunks", self._download(request))

    def held(self, request: pb.HeldRequest, *, timeout_s: float) -> pb.HeldReply:
        """Ask how much of an answer is there.

        Raises:
            grpc.RpcError: the call failed.
        """
        return cast("pb.HeldReply", self._stub.Held(request, timeout=timeout_s))

    def upload(self, parts: Iterator[bytes]) -> Receiving:
        """Begin to send an answer, in serialised parts."""
        return cast("Receiving", self._upload.future(parts))
