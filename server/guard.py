"""Access to all calls: checks the caller's certificate and role before any of its messages is read.

A certificate outlives its member: after `plait provision --revoke` TLS still accepts it. So every call, health checks
included, is refused if the register does not know the certificate's name in its role, or has it revoked; and the calls
per name are limited. A node whose key is revoked leaves at once.
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from concurrent.futures import Executor
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

import grpc
import grpc.aio

from plait.errors import PeerError, PlaitError
from plait.trust.keys import SERVER_COMMON_NAME, Role, Shown, shown_by
from plait.trust.register import Register, Verdict
from plait.v1 import federation_pb2 as pb
from server.hosting import Hosting
from server.monitoring import Metrics, log
from server.sessions import NodeSession

Context: TypeAlias = "grpc.aio.ServicerContext[object, object]"
_REFUSALS = {
    Verdict.UNKNOWN_KEY: (
        pb.REFUSED_REASON_UNKNOWN_KEY, "this server's register (clients.json) does not have this node",
    ),
    Verdict.REVOKED_KEY: (pb.REFUSED_REASON_REVOKED_KEY, "key has been revoked"),
    Verdict.WRONG_NAME: (pb.REFUSED_REASON_WRONG_NAME, "key is registered for another name"),
}  # fmt: skip


class EnrolmentRefused(PeerError):  # noqa: N818 (it names what happened)
    """A node is refused."""

    def __init__(self, reason: pb.RefusedReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    @property
    def word(self) -> str:
        """The reason for logs and metrics."""
        return pb.RefusedReason.Name(self.reason).removeprefix("REFUSED_REASON_").lower()

    def to_message(self) -> pb.ToNode:
        """The message to the node."""
        return pb.ToNode(refused=pb.Refused(reason=self.reason, detail=str(self)))


def refusal_of(verdict: Verdict) -> EnrolmentRefused:
    """Why a node with this verdict is refused."""
    return EnrolmentRefused(*_REFUSALS[verdict])


_REVOKED = refusal_of(Verdict.REVOKED_KEY).to_message()


@dataclass(eq=False)
class Revocation:
    """Rechecks connected nodes against the register, and dismisses those that it no longer knows."""

    admission: Register | None
    _: KW_ONLY
    hosting: Hosting
    metrics: Metrics

    def verdict(self, shown: Shown) -> Verdict:
        """The register's verdict on a certificate; a node whose name is no longer valid is dismissed."""
        if self.admission is None:
            return Verdict.KNOWN
        if shown.role is not Role.CLIENT:
            return self.admission.holds(shown.role, shown.name, shown.key_digest)
        verdict = self.admission.standing(shown.name)
        node = self.hosting.sessions.named(shown.name)
        if verdict is not Verdict.KNOWN and node is not None and node.session is not None:
            self._turn_out(node.session)
        return verdict

    def may_stay(self, session: NodeSession) -> bool:
        """Whether the node's key is valid; if not, its session ends and its answers are not waited for."""
        node = session.node
        if self.admission is None or self.admission.check(node.name, node.public_key) is Verdict.KNOWN:
            return True
        self._turn_out(session)
        return False

    def _turn_out(self, session: NodeSession) -> None:
        if session.is_open:
            name = session.node.name
            log("revoked", level=logging.WARNING, node=name)
            run = self.hosting.run_of(session)
            if run is None:
                session.close(_REVOKED)
            else:
                self.metrics.tasks_lost.inc(run.tasks.expel(session, _REVOKED, f"key of {name} has been revoked"))

    def check_all(self) -> None:
        """Check every connected node."""
        for node in self.hosting.sessions.all():
            if node.session is not None and node.session.is_open:
                self.may_stay(node.session)


_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_SERVICES = pb.DESCRIPTOR.services_by_name
_FEDERATION, _OPERATIONS = (f"/{_SERVICES[name].full_name}" for name in ("Federation", "Operations"))
ATTEND = f"{_FEDERATION}/Attend"
_ALLOWED: Mapping[str, Collection[Role]] = {
    **{f"{_FEDERATION}/{call}": (Role.CLIENT,) for call in ("Attend", "Download", "Held", "Upload")},
    f"{_FEDERATION}/Status": (Role.CLIENT, Role.OPERATOR),
    **{f"{_OPERATIONS}/{call.name}": (Role.OPERATOR,) for call in _SERVICES["Operations"].methods},
}
"""The roles that may make a call; any may ask whether the server is healthy."""
_CALLS_A_NAME = 16
"""A node has its long call, a download, an upload, a few questions, and all of them again while it reconnects."""
_LOGGED_EVERY_S = 60.0
_CERTIFICATES_KEPT = 16_384


def certified_name(context: Context) -> str | None:
    """The name in the caller's certificate; None on an insecure connection."""
    names = list(context.auth_context().get("x509_common_name", ()))
    return names[0].decode(errors="replace") if names else None


def certificate_of(context: Context) -> Shown | None:
    """What the caller's certificate states; None on an insecure connection, or for one that plait never issues."""
    pem = _pem_of(context)
    return None if pem is None else shown_by(pem)


def _pem_of(context: Context) -> bytes | None:
    return next(iter(context.auth_context().get("x509_pem_cert", ())), None)


MoreCalls: TypeAlias = Callable[[Executor], grpc.GenericRpcHandler]
"""Makes a service besides a federation's, given threads for what reads or writes files."""


@dataclass(eq=False)
class CallGuard(grpc.aio.ServerInterceptor):
    """Refuses calls before they are served."""

    revocation: Revocation

    def __post_init__(self) -> None:
        self._calls: Counter[str | None] = Counter()
        self._logged: dict[str, float] = {}
        # By their SHA-256: of thousands of connected nodes the certificates themselves would take most of it.
        self._shown: dict[bytes, Shown | None] = {}

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """The handler of a call, guarded; None if there is none."""
        handler = await continuation(handler_call_details)
        return None if handler is None else self._guarded(handler, handler_call_details.method)

    def _guarded(self, handler: Any, method: str) -> _Handler:
        serve = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        # To gRPC every call is a stream of requests: otherwise it would read one, up to a megabyte, before the check.
        async def guarded(requests: AsyncIterator[object], context: Context) -> object:
            name = certified_name(context)
            try:
                refused = self._refusal(name, context, method)
            except PlaitError as error:
                log("register", level=logging.ERROR, detail=error)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "server cannot read its register of clients")
            if refused is not None:
                return await self._turn_away(refused, name, method, context)
            self._calls[name] += 1
            try:
                return await serve(requests if handler.request_streaming else await _only(requests, context), context)
            finally:
                self._calls[name] -= 1

        streams, answers_once = grpc.stream_stream_rpc_method_handler, grpc.stream_unary_rpc_method_handler
        make = streams if handler.response_streaming else answers_once
        return make(guarded, handler.request_deserializer, handler.response_serializer)

    def _refusal(self, name: str | None, context: Context, method: str) -> EnrolmentRefused | None:
        if name is None:
            return None
        if name != SERVER_COMMON_NAME:
            shown = self._certificate_of(context)
            if shown is None or shown.name != name:
                return EnrolmentRefused(pb.REFUSED_REASON_MALFORMED, "certificate is not one that plait makes")
            if (verdict := self.revocation.verdict(shown)) is not Verdict.KNOWN:
                return refusal_of(verdict)
            if shown.role not in _ALLOWED.get(method, (shown.role,)):
                detail = f"{shown.role} '{name}' may not call {method.rpartition('/')[2]}"
                return EnrolmentRefused(pb.REFUSED_REASON_ROLE, detail)
        if self._calls[name] >= _CALLS_A_NAME:
            detail = f"this node has {_CALLS_A_NAME} calls in progress, try again later"
            return EnrolmentRefused(pb.REFUSED_REASON_FULL, detail)
        return None

    def _certificate_of(self, context: Context) -> Shown | None:
        """As `certificate_of`; reading one takes as long as the rest of a small call."""
        pem = _pem_of(context)
        if pem is None:
            return None
        digest = hashlib.sha256(pem).digest()
        if digest not in self._shown:
            if len(self._shown) >= _CERTIFICATES_KEPT:
                self._shown.clear()
            self._shown[digest] = shown_by(pem)
        return self._shown[digest]

    async def _turn_away(self, refused: EnrolmentRefused, name: str | None, method: str, context: Context) -> None:
        self.revocation.metrics.calls_refused.labels(refused.word).inc()
        now = time.monotonic()
        # Repeated attempts must not fill the log.
        if name is not None and now - self._logged.get(name, -_LOGGED_EVERY_S) >= _LOGGED_EVERY_S:
            self._logged[name] = now
            log("call-refused", reason=refused.word, node=name, call=method, peer=context.peer())
        if method == ATTEND:
            await context.write(refused.to_message())
            return
        full = refused.reason == pb.REFUSED_REASON_FULL
        code = grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.PERMISSION_DENIED
        await context.abort(code, str(refused))


async def _only(requests: AsyncIterator[object], context: Context) -> object:
    request = await anext(aiter(requests), None)
    if request is None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "call has no message")
    return request
