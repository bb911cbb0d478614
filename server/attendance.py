"""A node's long call: it proves its identity, then receives tasks for as long as it stays."""

import asyncio
import itertools
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache

from plait.errors import ConfigError, PlaitError
from plait.system.text import check_client_name
from plait.transport.protocol import HEAD_BYTES, NONCE_BYTES, PROTOCOL_VERSION, enrolment_bytes
from plait.trust.keys import PUBLIC_KEY_BYTES, verify
from plait.trust.register import Register, Verdict
from plait.v1 import federation_pb2 as pb
from server.guard import Context, EnrolmentRefused, Revocation, certified_name, refusal_of
from server.hosting import Hosting
from server.monitoring import Metrics, log
from server.sessions import REPLACED_DETAIL, Fitness, NodeSession
from server.uploads import Limits, TransferRefused


def _malformed(detail: str) -> EnrolmentRefused:
    return EnrolmentRefused(pb.REFUSED_REASON_MALFORMED, detail)


@dataclass(eq=False)
class Enrolment:
    """One node's enrolment; without a register any name is admitted, on an insecure connection."""

    admission: Register | None
    _: KW_ONLY
    certified_name: str | None

    def __post_init__(self) -> None:
        self.hello = pb.Hello()
        self._nonce = secrets.token_bytes(NONCE_BYTES)

    def challenge(self, event: pb.FromNode) -> pb.ToNode:
        """Answer the node's first message."""
        if event.WhichOneof("event") != "hello":
            raise _malformed("first message is not a hello")
        hello = event.hello
        if hello.protocol != PROTOCOL_VERSION:
            older = "of this client" if hello.protocol < PROTOCOL_VERSION else "of the server"
            raise EnrolmentRefused(
                pb.REFUSED_REASON_PROTOCOL,
                f"protocol version is {hello.protocol}, expected {PROTOCOL_VERSION}: upgrade the plait {older}, which "
                "is the older one",
            )
        try:
            check_client_name(hello.name)
        except ConfigError as error:
            raise _malformed(str(error)) from error
        if len(hello.nonce) != NONCE_BYTES:
            raise _malformed(f"nonce has {len(hello.nonce)} bytes, expected {NONCE_BYTES}")
        anonymous = self.admission is None and not hello.public_key
        if len(hello.public_key) != PUBLIC_KEY_BYTES and not anonymous:
            raise _malformed(f"public key has {len(hello.public_key)} bytes, expected {PUBLIC_KEY_BYTES}")
        if self.admission is not None:
            verdict = self.admission.check(hello.name, hello.public_key)
            if verdict is not Verdict.KNOWN:
                raise refusal_of(verdict)
        # If keys are required, TLS has checked a certificate, and its name must match too.
        if self.certified_name != hello.name and (self.admission is not None or self.certified_name is not None):
            raise EnrolmentRefused(pb.REFUSED_REASON_WRONG_NAME, "name differs from the certificate's")
        self.hello = hello
        return pb.ToNode(challenge=pb.Challenge(nonce=self._nonce))

    def check(self, event: pb.FromNode) -> None:
        """Check the node's proof."""
        if event.WhichOneof("event") != "proof":
            raise _malformed("second message is not a proof")
        hello = self.hello
        if not hello.public_key:
            return
        signed = enrolment_bytes(
            challenge_nonce=self._nonce, hello_nonce=hello.nonce, public_key=hello.public_key, name=hello.name
        )
        if not verify(hello.public_key, event.proof.signature, signed):
            raise EnrolmentRefused(pb.REFUSED_REASON_BAD_PROOF, "signature over this challenge does not fit the key")


_MAX_METHODS = 64
_MOST_VERSION = 32
_MAX_TEXT = 120
_UNASKED, _PAUSE_S = 4, 0.05
"""Messages that a node may send between two answers without a pause, and that pause."""
_FAREWELL_S = 2.0
_ENTERING_A_NAME = 2
"""A node has one enrolling call, and perhaps an older one on a lost connection."""
_QUEUE_S = 20.0
"""Less than a node's own patience, so that it learns why it is not admitted."""


@dataclass(eq=False)
class Attendance:
    """Serves the long calls of all nodes."""

    hosting: Hosting
    revocation: Revocation
    metrics: Metrics
    limits: Limits

    def __post_init__(self) -> None:
        self._sessions = self.hosting.sessions
        self._door = asyncio.Semaphore(self.limits.max_unproven)
        self._entering: Counter[str | None] = Counter()
        self._arrivals = itertools.count()

    async def serve(self, call: Context) -> None:
        """Serve one node until it leaves or is dismissed."""
        peer, arrival = call.peer(), next(self._arrivals)
        enrolment = Enrolment(self.revocation.admission, certified_name=certified_name(call))
        try:
            session = await self._let_in(call, enrolment, arrival)
        except EnrolmentRefused as refused:
            self.metrics.enrolments_refused.labels(refused.word).inc()
            log("refused", reason=refused.word, detail=refused, node=enrolment.hello.name, peer=peer)
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_S):
                    await call.write(refused.to_message())
            return
        # Certificate, keys and challenge of the proof are not needed for as long as the node stays.
        del enrolment
        log("attached", node=session.node.name, peer=peer)
        try:
            await self._attend(call, session)
        finally:
            self._leave(session)
            log("left", node=session.node.name, peer=peer)

    async def _let_in(self, call: Context, enrolment: Enrolment, arrival: int) -> NodeSession:
        async with self._turn(enrolment.certified_name):
            try:
                # Its own time, excluding the wait for others.
                async with asyncio.timeout(self.limits.handshake_s):
                    await call.write(enrolment.challenge(await self._read(call)))
                    enrolment.check(await self._read(call))
            except TimeoutError as error:
                raise EnrolmentRefused(
                    pb.REFUSED_REASON_LATE, f"no proof came within {self.limits.handshake_s:g} s, try again"
                ) from error
        hello = enrolment.hello
        if self._sessions.has_newer(hello.name, arrival=arrival):
            # A late message from a connection that the node has given up must not end its current one.
            raise EnrolmentRefused(pb.REFUSED_REASON_REPLACED, REPLACED_DETAIL)
        version = hello.version[:_MOST_VERSION]
        session = self._sessions.attach(hello.name, hello.public_key, arrival=arrival, version=version)
        if session is None:
            raise EnrolmentRefused(pb.REFUSED_REASON_FULL, "server is full, try again later")
        return session

    @asynccontextmanager
    async def _turn(self, name: str | None) -> AsyncGenerator[None]:
        """Wait for admission; no single node can fill the queue, since places are counted by the certificate's name."""
        if name is not None and self._entering[name] >= _ENTERING_A_NAME:
            raise EnrolmentRefused(
                pb.REFUSED_REASON_FULL, f"{_ENTERING_A_NAME} connections of this node are enrolling, try again"
            )
        self._entering[name] += 1
        try:
            async with asyncio.timeout(_QUEUE_S) as queueing, self._door:
                queueing.reschedule(None)
                yield
        except TimeoutError as error:
            raise EnrolmentRefused(pb.REFUSED_REASON_FULL, "too many nodes are enrolling, try again") from error
        finally:
            self._entering[name] -= 1

    @staticmethod
    async def _read(call: Context) -> pb.FromNode:
        event = await _next(call)
        if event is None:
            raise EnrolmentRefused(pb.REFUSED_REASON_LATE, "node hung up before it proved its key")
        if event.ByteSize() > HEAD_BYTES:
            raise _malformed(f"message has {event.ByteSize()} bytes, expected at most {HEAD_BYTES}")
        return event

    async def _attend(self, call: Context, session: NodeSession) -> None:
        self.hosting.enter(session)
        # The call's own task sends to the node: of thousands of idle nodes each further task would take a kilobyte.
        listening = asyncio.create_task(self._listen(call, session))
        try:
            async with asyncio.timeout(None) as patience:
                listening.add_done_callback(lambda _: self._part(session, patience))
                await self._send(call, session)
        except TimeoutError:
            pass
        except Exception as error:
            _log_broken(session, error)
        finally:
            listening.cancel()
            (heard,) = await asyncio.gather(listening, return_exceptions=True)
            if isinstance(heard, Exception):
                _log_broken(session, heard)

    @staticmethod
    def _part(session: NodeSession, patience: asyncio.Timeout) -> None:
        """The node sends no more: the last message to it may not be read any more."""
        session.close()
        with suppress(RuntimeError):  # all is sent already
            patience.reschedule(asyncio.get_running_loop().time() + _FAREWELL_S)

    async def _send(self, call: Context, session: NodeSession) -> None:
        while (event := await session.next()) is not None:
            await call.write(event)
            if event.HasField("work"):
                session.node.sent(sent_bytes := len(event.work.head))
                self.metrics.downlink_bytes.inc(sent_bytes)

    async def _listen(self, call: Context, session: NodeSession) -> None:
        unasked = 0
        try:
            while (event := await _next(call)) is not None:
                unasked = 0 if await self._handle(session, event) else unasked + 1
                # A node that sends without end must cost little.
                if unasked > _UNASKED:
                    await asyncio.sleep(_PAUSE_S)
        except EnrolmentRefused as refused:
            log("refused", reason="after-proof", detail=refused, node=session.node.name)
            self.metrics.enrolments_refused.labels(refused.word).inc()
            session.close(refused.to_message())

    async def _handle(self, session: NodeSession, event: pb.FromNode) -> bool:
        """Process a node's message; returns whether it was waited for."""
        match event.WhichOneof("event"):
            case "ready":
                run = self.hosting.run_of(session)
                of_run = event.ready.run_id or (0 if self.hosting.stays else session.run_id)
                if run is None or of_run != session.run_id:
                    return False  # it was welcomed to another run meanwhile
                expected = run.terms.base_fingerprint
                if expected and event.ready.base_fingerprint != expected:
                    has = event.ready.base_fingerprint.hex()[:12] or "none"
                    raise EnrolmentRefused(
                        pb.REFUSED_REASON_BASE_MISMATCH, f"base is {has}..., expected {expected.hex()[:12]}..."
                    )
                methods = tuple(method[:_MAX_TEXT] for method in event.ready.methods[:_MAX_METHODS])
                fitness = _fitness(methods, event.ready.memory_bytes, event.ready.device[:_MAX_TEXT])
                log("ready", node=session.node.name, device=fitness.device, memory_bytes=fitness.memory_bytes)
                run.tasks.make_ready(session, fitness)
            case "progress":
                session.doing, session.doing_since = event.progress.doing[:_MAX_TEXT], time.monotonic()
            case "answer":
                return await self._take(session, event.answer)
            case _:
                raise _malformed("message is neither ready, progress nor answer")
        return False

    async def _take(self, session: NodeSession, answer: pb.Answer) -> bool:
        run = self.hosting.run_of(session)
        try:
            if run is None or not self.revocation.may_stay(session):
                return False
            return await run.uploads.take_small(session, answer)
        except TransferRefused as refused:
            raise _malformed(str(refused)) from refused
        except PlaitError as error:
            detail = "server cannot take the answer, try again later"
            raise EnrolmentRefused(pb.REFUSED_REASON_FULL, detail) from error

    def _leave(self, session: NodeSession) -> None:
        run = self.hosting.run_of(session)
        if run is not None:
            run.tasks.leave(session)
        else:
            self._sessions.leave(session)


async def _next(call: Context) -> pb.FromNode | None:
    event = await call.read()
    return event if isinstance(event, pb.FromNode) else None


def _log_broken(session: NodeSession, error: Exception) -> None:
    log("line-broken", node=session.node.name, detail=type(error).__name__)


_fitness = lru_cache(maxsize=256)(Fitness)
"""One object for all nodes that report the same, as most do."""
