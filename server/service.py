"""The gRPC service of federation.proto: translates between calls and sessions, tasks and uploads.

Knows nothing of the content of tasks and answers.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from dataclasses import dataclass

import grpc

from plait.errors import MachineError, PlaitError
from plait.transport.chunks import chunks_of
from plait.transport.framing import Data, pack_chunk, unpack_part
from plait.trust.certificate import Role
from plait.v1 import federation_pb2 as pb
from server.attendance import Attendance
from server.guard import Context, certificate_of, certified_name
from server.hosting import HostedRun, Hosting
from server.limits import Limits
from server.log import say
from server.metrics import Metrics
from server.revocation import Revocation
from server.sessions import Session
from server.status import status_of_host
from server.transfers import CutOff, Frequency, Transfers
from server.uploads import UploadRefused, data_of

_SAME_BODY = 16
"""A node downloads a body once, and resumes it after each lost connection."""

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["Federation"].full_name


@dataclass(eq=False, kw_only=True)
class FederationService:
    """Serves all calls; made and used in one event loop.

    Attributes:
        hosting: the run, and the sessions of its nodes.
        revocation: asked at every call whether the node's key is valid.
        operator_token: authorises requests for the status; None allows everyone, on an insecure connection.
        limits: bounds on what nodes may use.
    """

    attendance: Attendance
    hosting: Hosting
    revocation: Revocation
    metrics: Metrics
    disk: Executor
    operator_token: bytes | None
    limits: Limits

    def __post_init__(self) -> None:
        self._frequency = Frequency(_SAME_BODY)
        self._downloads = Transfers(at_once=self.limits.transfers_at_once, pace=self.limits.pace)

    @property
    def handlers(self) -> grpc.GenericRpcHandler:
        """The calls as gRPC takes them; chunks bypass protobuf, which would copy them twice."""
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Attend": grpc.stream_stream_rpc_method_handler(
                    self.attend, pb.FromNode.FromString, pb.ToNode.SerializeToString
                ),
                "Download": grpc.unary_stream_rpc_method_handler(self.download, pb.DownloadRequest.FromString),
                "Held": grpc.unary_unary_rpc_method_handler(
                    self.held, pb.HeldRequest.FromString, pb.HeldReply.SerializeToString
                ),
                "Upload": grpc.stream_unary_rpc_method_handler(self.upload, unpack_part, pb.Receipt.SerializeToString),
                "Status": grpc.unary_unary_rpc_method_handler(
                    self.status, pb.StatusRequest.FromString, pb.StatusReply.SerializeToString
                ),
            },
        )

    async def attend(self, request_iterator: AsyncIterator[pb.FromNode], context: Context) -> None:
        """Serve a node until its call ends."""
        del request_iterator
        try:
            await self.attendance.serve(
                _ContextLine(context), peer=context.peer(), certified_name=certified_name(context)
            )
        except PlaitError as error:
            say("cannot-admit", level=logging.ERROR, detail=error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "server cannot read its register of clients")

    async def download(self, request: pb.DownloadRequest, context: Context) -> None:
        """Send the body of a task."""
        session, run = await self._working(request.session, context)
        body = run.tasks.body_for(session.node.name, request.sha256)
        if body is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no open task of this node has this body")
        if request.offset > len(body):
            await context.abort(
                grpc.StatusCode.OUT_OF_RANGE, f"offset is {request.offset}, expected at most {len(body)}"
            )
        if not self._frequency.allows(session.node.name, request.sha256):
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"this was downloaded {_SAME_BODY} times in a minute, try again later",
            )
        try:
            async with self._downloads.turn(session.node.name) as transfer:
                for chunk in chunks_of(body, request.offset):
                    if not session.is_open or self.hosting.run is not run:
                        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the session is over, enrol again")
                    await context.write(pack_chunk(chunk))
                    transfer.moved(len(chunk))
                    session.node.sent(len(chunk))
                    self.metrics.downlink_bytes.inc(len(chunk))
        except CutOff as cut:
            await context.abort(grpc.StatusCode.ABORTED, str(cut))

    async def held(self, request: pb.HeldRequest, context: Context) -> pb.HeldReply:
        """Report how much of an answer is here."""
        session, run = await self._working(request.session, context)
        return run.uploads.held(session.node.name, request)

    async def upload(self, request_iterator: AsyncIterator[Data | pb.UploadStart], context: Context) -> pb.Receipt:
        """Receive an answer."""
        parts, first, start_s = aiter(request_iterator), None, self.limits.handshake_s
        try:
            async with asyncio.timeout(start_s):
                first = await anext(parts, None)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no start came within {start_s:g} s")
        if not isinstance(first, pb.UploadStart):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "first part has no start, expected one")
        session, run = await self._working(first.session, context)
        before = session.node.uplink_bytes
        session.node.uploads += 1
        try:
            return await run.uploads.take(session, first, lambda: data_of(parts))
        except UploadRefused as refused:
            await context.abort(_code_of(refused), f"{refused.reason}: {refused}")
        except MachineError:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "server cannot write the answer, try again later")
        finally:
            session.node.uploads -= 1
            self.metrics.uplink_bytes.inc(session.node.uplink_bytes - before)

    async def status(self, request: pb.StatusRequest, context: Context) -> pb.StatusReply:
        """Tell an operator, or a node, the status of the run."""
        token, shown = self.operator_token, certificate_of(context)
        is_operator = shown is not None and shown.role is Role.OPERATOR
        if not (
            token is None
            or is_operator
            or hmac.compare_digest(request.token, token)
            or self._found(request.token, context)
        ):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "token is neither the operator's nor a session's")
        return pb.StatusReply(
            json=await asyncio.get_running_loop().run_in_executor(self.disk, status_of_host, self.hosting)
        )

    def _found(self, token: bytes, context: Context) -> Session | None:
        """The session of a token, over a connection of its own node: a stolen token is worthless over another."""
        session = self.hosting.sessions.find(token)
        name = certified_name(context)
        return session if session is not None and name in (None, session.node.name) else None

    async def _working(self, token: bytes, context: Context) -> tuple[Session, HostedRun]:
        """The session of a token, and the run that its node works for."""
        session = self._found(token, context)
        run = None if session is None else self.hosting.run_of(session)
        try:
            if session is None or run is None or not self.revocation.may_stay(session):
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the session is over, enrol again")
        except PlaitError as error:
            say("register", level=logging.ERROR, detail=error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "server cannot read its register of clients")
        return session, run


class _ContextLine:
    """A long call, for `Attendance`."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def read(self) -> pb.FromNode | None:
        event = await self._context.read()
        return event if isinstance(event, pb.FromNode) else None

    async def write(self, event: pb.ToNode) -> None:
        await self._context.write(event)


def _code_of(refused: UploadRefused) -> grpc.StatusCode:
    if refused.reason == "session-over":
        return grpc.StatusCode.UNAUTHENTICATED
    if refused.reason == "unknown-task":
        return grpc.StatusCode.FAILED_PRECONDITION
    return grpc.StatusCode.ABORTED if refused.retry else grpc.StatusCode.INVALID_ARGUMENT
