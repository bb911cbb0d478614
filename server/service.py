"""The gRPC service of federation.proto, and the server that it runs in: port, TLS, grpc-health, its own event loop."""

import asyncio
import hmac
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2

from plait.errors import MachineError, PlaitError
from plait.system.address import Address
from plait.transport.credentials import SERVER_OPTIONS
from plait.transport.protocol import Data, chunks_of, pack_chunk, unpack_part
from plait.trust.keys import Role
from plait.v1 import federation_pb2 as pb
from server.attendance import Attendance
from server.guard import Context, Revocation, certificate_of, certified_name
from server.hosting import HostedRun, Hosting, status_of_host
from server.monitoring import Metrics, log
from server.sessions import NodeSession
from server.uploads import Frequency, Limits, TransferRefused, Transfers

_SAME_BODY = 16
"""A node downloads a body once, and resumes it after each lost connection."""

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["Federation"].full_name


@dataclass(eq=False, kw_only=True)
class FederationService:
    """Serves all calls; made and used in one event loop. Without an operator's token anyone may ask for the status."""

    hosting: Hosting
    revocation: Revocation
    metrics: Metrics
    disk: Executor
    operator_token: bytes | None
    limits: Limits

    def __post_init__(self) -> None:
        self._attendance = Attendance(self.hosting, self.revocation, self.metrics, self.limits)
        self._frequency = Frequency(_SAME_BODY)
        self._downloads = Transfers(self.limits)

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
            await self._attendance.serve(context)
        except PlaitError as error:
            log("cannot-admit", level=logging.ERROR, detail=error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "server cannot read its register of clients")

    async def download(self, request: pb.DownloadRequest, context: Context) -> None:
        """Send the body of a task."""
        session, run = await self._working(request.session, context)
        body = run.tasks.body_for(session.node.name, request.sha256)
        if body is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no open task of this node has this body")
        if request.offset > len(body):
            beyond = f"offset is {request.offset}, expected at most {len(body)}"
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, beyond)
        if not self._frequency.allows(session.node.name, request.sha256):
            often = f"this was downloaded {_SAME_BODY} times in a minute, try again later"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, often)
        try:
            async with self._downloads.turn(session.node.name) as transfer:
                for chunk in chunks_of(body, request.offset):
                    if not session.is_open or self.hosting.run is not run:
                        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the session is over, enrol again")
                    await context.write(pack_chunk(chunk))
                    transfer.moved(len(chunk))
                    session.node.sent(len(chunk))
                    self.metrics.downlink_bytes.inc(len(chunk))
        except TransferRefused as refused:
            await context.abort(grpc.StatusCode.ABORTED, str(refused))

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
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "upload begins without a start")
        session, run = await self._working(first.session, context)
        before = session.node.uplink_bytes
        session.node.uploads += 1
        try:
            return await run.uploads.take(session, first, parts)
        except TransferRefused as refused:
            await context.abort(_code_of(refused), f"{refused.reason}: {refused}")
        except MachineError:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "server cannot write the answer, try again later")
        finally:
            session.node.uploads -= 1
            self.metrics.uplink_bytes.inc(session.node.uplink_bytes - before)

    async def status(self, request: pb.StatusRequest, context: Context) -> pb.StatusReply:
        """Report the status of the run to an operator or a node."""
        token, shown = self.operator_token, certificate_of(context)
        is_operator = token is None or (shown is not None and shown.role is Role.OPERATOR)
        is_known = is_operator or hmac.compare_digest(request.token, token or b"")
        if not (is_known or self._found(request.token, context)):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "token is neither the operator's nor a session's")
        loop = asyncio.get_running_loop()
        return pb.StatusReply(json=await loop.run_in_executor(self.disk, status_of_host, self.hosting))

    def _found(self, token: bytes, context: Context) -> NodeSession | None:
        """The session of a token, over a connection of its own node: a stolen token is worthless over another."""
        session = self.hosting.sessions.find(token)
        name = certified_name(context)
        return session if session is not None and name in (None, session.node.name) else None

    async def _working(self, token: bytes, context: Context) -> tuple[NodeSession, HostedRun]:
        """The session of a token, and the run that its node works for."""
        session = self._found(token, context)
        run = None if session is None else self.hosting.run_of(session)
        try:
            if session is None or run is None or not self.revocation.may_stay(session):
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the session is over, enrol again")
        except PlaitError as error:
            log("register", level=logging.ERROR, detail=error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "server cannot read its register of clients")
        return session, run


def _code_of(refused: TransferRefused) -> grpc.StatusCode:
    if refused.reason == "session-over":
        return grpc.StatusCode.UNAUTHENTICATED
    if refused.reason == "unknown-task":
        return grpc.StatusCode.FAILED_PRECONDITION
    return grpc.StatusCode.ABORTED if refused.retry else grpc.StatusCode.INVALID_ARGUMENT


_START_S = 30.0
_TEND_EVERY_S = 0.25
_DRAIN_S = 5.0


@dataclass(eq=False)
class GrpcServer:
    """Serves one federation from `start` to `stop`; calls `tend` several times per second, and `drain` at the end."""

    address: Address
    credentials: grpc.ServerCredentials | None
    _: KW_ONLY
    service: Callable[[], FederationService]
    more: Sequence[grpc.GenericRpcHandler] = ()
    guard: grpc.aio.ServerInterceptor
    tend: Callable[[], None]
    drain: Callable[[], None]
    options: Sequence[tuple[str, int]] = ()

    def __post_init__(self) -> None:
        self._started: Future[Address] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="plait-grpc", daemon=True)

    def start(self) -> Address:
        """Listen; returns the address, with the actual port for a 0."""
        self.address.check_free()
        self._thread.start()
        return self._started.result(_START_S)

    def check(self) -> None:
        """Check that it is still serving."""
        if self._failure is not None:
            raise MachineError(f"the gRPC service ended: {type(self._failure).__name__}: {self._failure}")

    def stop(self) -> None:
        """Drain and stop; does nothing the second time."""
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            else:
                self._failure = error
                log("service-ended", level=logging.CRITICAL, error=type(error).__name__, detail=error)

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = grpc.aio.server(options=(*SERVER_OPTIONS, *self.options), interceptors=[self.guard])
        healthy = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue] (set while importing)
        server.add_generic_rpc_handlers((self.service().handlers, *self.more, _health(healthy)))
        port = self._listen(server)
        await server.start()
        for name in ("", SERVICE_NAME):
            await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._started.set_result(Address(self.address.host, port))
        while not self._stopping.is_set():
            self.tend()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _TEND_EVERY_S)
        await healthy.enter_graceful_shutdown()
        self.drain()
        # Ends as soon as the calls in progress have.
        await server.stop(_DRAIN_S)
        # Calls that were cut off are still ending; gRPC would print a traceback for each that the loop's end cancels.
        if ending := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(ending, timeout=_DRAIN_S)

    def _listen(self, server: grpc.aio.Server) -> int:
        port = 0
        with suppress(RuntimeError):
            if self.credentials is None:
                port = server.add_insecure_port(str(self.address))
            else:
                port = server.add_secure_port(str(self.address), self.credentials)
        if not port:
            raise MachineError(f"cannot listen on {self.address}, is another server running there?")
        return port


def _health(servicer: Any) -> grpc.GenericRpcHandler:
    """grpc-health without Watch, a call that never ends."""
    asked, reply = health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
    check = grpc.unary_unary_rpc_method_handler(servicer.Check, asked, reply)
    return grpc.method_handlers_generic_handler(health.SERVICE_NAME, {"Check": check})
