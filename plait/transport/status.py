"""The call behind `plait status`: a server's report on its run."""

from typing import cast

import grpc

from plait.errors import MachineError, PeerError
from plait.system.address import Address
from plait.system.text import read_json
from plait.transport.credentials import open_channel
from plait.trust.diagnose import explain
from plait.trust.kit import Kit, ServerKit, StaffKit
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import FederationStub


def fetch_status(address: str, *, kit: ServerKit | StaffKit | None, timeout_s: float = 10.0) -> dict[str, object]:
    """Ask a server for its status.

    Args:
        kit: an operator's, or the server's own with its token; None for an insecure server on this machine.

    Raises:
        MachineError: no server answers there, or TLS fails.
        PeerError: the server does not accept the token, or its answer is not a JSON object.
    """
    parsed = Address.parse(address, what="server")
    request = pb.StatusRequest(token=kit.operator_token.encode() if isinstance(kit, ServerKit) else b"")
    with open_channel(parsed, kit) as channel:
        try:
            reply = cast("pb.StatusReply", FederationStub(channel).Status(request, timeout=timeout_s))
        except grpc.RpcError as error:
            raise _plain(cast("grpc.Call", error), parsed, kit) from error
    return json_object(reply.json, what=f"status of {address}")


def _plain(error: grpc.Call, address: Address, kit: ServerKit | StaffKit | None) -> MachineError | PeerError:
    code = error.code()
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        if isinstance(kit, StaffKit):
            return PeerError(f"{address} refuses operator '{kit.name}': {error.details()}")
        return PeerError(f"{address} does not accept the token: use the operator.token of this server's kit")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return PeerError(f"{address} is a gRPC server but not plait's: give the address of a `plait server`")
    return unanswered(code, address, kit, otherwise=f"did not report its status ({code.name}); see its server.log")


def unanswered(code: grpc.StatusCode, address: Address, kit: Kit | None, *, otherwise: str) -> MachineError:
    """The error for a call that failed: why no server is reached, or what else is wrong with the one that is."""
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return MachineError(f"no plait server answers: {explain(address, kit)}")
    return MachineError(f"{address} {otherwise}")


def json_object(text: str, *, what: str) -> dict[str, object]:
    """The object in a message's text, which gRPC has bounded; PeerError if it is none."""
    try:
        value = read_json(text)
    except ValueError as error:
        raise PeerError(f"{what} is not JSON") from error
    if not isinstance(value, dict):
        raise PeerError(f"{what} is a JSON {type(value).__name__}, expected an object")
    return cast("dict[str, object]", value)
