"""Keep a node connected: enrol, pass on the server's messages, and reconnect for as long as it takes."""

import queue
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import cast

import grpc

from client.session import Backoff, CurrentSession, IncomingStream, Session, what_failed
from client.task import Abandonment, ClientTask, Event, FromServer, Lost, OfferedRun, shown, watched_thread
from plait import __version__
from plait.config import Scalar
from plait.errors import Abandoned, BaseMismatchError, PeerError
from plait.transport.protocol import DIGEST_BYTES, NONCE_BYTES, PROTOCOL_VERSION, SESSION_BYTES, enrolment_bytes
from plait.transport.status import json_object
from plait.trust.keys import NodeKey
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import FederationStub

_REMEDIES: Mapping[int, str] = {
    pb.REFUSED_REASON_PROTOCOL: "or install the plait version that the server runs",
    pb.REFUSED_REASON_UNKNOWN_KEY: "if this name is provisioned, the server's operator must copy clients.json from the "
    "server folder that `plait provision` made into the server's kit; otherwise have it provisioned and use that kit",
    pb.REFUSED_REASON_REVOKED_KEY: "ask the server's operator for a new kit",
    pb.REFUSED_REASON_WRONG_NAME: "run with the name that the kit was made for, or ask for a kit for this name",
    pb.REFUSED_REASON_BAD_PROOF: "the kit does not match its key; ask the server's operator for a new kit",
    pb.REFUSED_REASON_BASE_MISMATCH: "pass the run's model to --base, with the same weights, config and tokenizer",
    pb.REFUSED_REASON_REPLACED: "another process runs with this name; stop one of the two, or give it its own kit",
    pb.REFUSED_REASON_ROLE: "run with a client's kit",
    pb.REFUSED_REASON_MALFORMED: "install the plait version that the server runs",
}


def final_refusal(refused: pb.Refused) -> PeerError | None:
    """The error that ends the node; None if a retry may help, as for an unknown reason."""
    remedy = _REMEDIES.get(refused.reason)
    if remedy is None:
        return None
    kind = BaseMismatchError if refused.reason == pb.REFUSED_REASON_BASE_MISMATCH else PeerError
    return kind(f"server refused this node: {shown(refused.detail) or _word(refused.reason)}; {remedy}")


def _word(reason: int) -> str:
    known = pb.RefusedReason.DESCRIPTOR.values_by_number
    name = known[reason].name if reason in known else f"reason {reason}"
    return name.removeprefix("REFUSED_REASON_").replace("_", " ").lower()


_ENROL_S = 30.0
_GOODBYE_S = 2.0
_MOST_UNHEARD = 32
_LOOK_S = 0.2


@dataclass(eq=False)
class _LongCall:
    """One long call to the server, which `stays` if it may name further runs; before enrolment it takes proofs only."""

    outgoing: queue.SimpleQueue[pb.FromNode | None] = field(default_factory=queue.SimpleQueue[pb.FromNode | None])
    abandonment: Abandonment = field(default_factory=Abandonment)
    is_enrolled: bool = False
    stays: bool = False
    session: Session | None = None


@dataclass(eq=False)
class Connection:
    """The node's long call to the server, and its successors; `explain` diagnoses for seconds why there is none."""

    open_channel: Callable[[], grpc.Channel]
    attempt: Callable[[], "EnrolmentAttempt"]
    _: KW_ONLY
    sessions: CurrentSession
    backoff: Backoff
    explain: Callable[[], str]
    post: Callable[[Event], None]

    def __post_init__(self) -> None:
        self._closing = Abandonment()
        self._lock = threading.Lock()
        # Unprocessed messages: beyond this number the server waits, so this node's memory is bounded.
        self._room = threading.Semaphore(_MOST_UNHEARD)
        self._call: _LongCall | None = None
        self._thread = watched_thread(self._stay, name="connection", post=self.post)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def send(self, message: pb.FromNode) -> None:
        """Send a message to the server, if this node is enrolled."""
        with self._lock:
            if self._call is not None and self._call.is_enrolled:
                self._call.outgoing.put(message)

    def heard(self) -> None:
        """A welcome, a task, its withdrawal or a farewell was processed: read on."""
        self._room.release()

    def break_off(self, cause: str) -> None:
        """End the call of a server that violates the protocol; another is tried later."""
        with self._lock:
            call = self._call
        if call is not None:
            call.abandonment.ask(cause)

    def close(self) -> None:
        """Say goodbye and end."""
        self._closing.ask("the node stops")
        with self._lock:
            call = self._call
        if call is not None:
            call.outgoing.put(None)
        if self._thread.ident is None:
            return
        self._thread.join(_GOODBYE_S)
        if self._thread.is_alive() and call is not None:
            call.abandonment.ask(self._closing.reason)
        self._thread.join(_GOODBYE_S)

    def _stay(self) -> None:
        with suppress(Abandoned):
            while (cause := self._attend()) is not None:
                self._closing.check()
                wait_s = self.backoff.next_s()
                self.post(Lost(cause, wait_s))
                self._closing.pause(wait_s)

    def _attend(self) -> str | None:
        """One connection from beginning to end: why it ended, None if there should be no other."""
        channel, call, enrolment = self.open_channel(), _LongCall(), self.attempt()
        call.outgoing.put(enrolment.hello())
        incoming = cast("IncomingStream[pb.ToNode]", FederationStub(channel).Attend(iter(call.outgoing.get, None)))
        late = f"server did not admit this node within {_ENROL_S:.0f} s; is it overloaded?"
        patience = threading.Timer(_ENROL_S, call.abandonment.ask, (late,))
        patience.daemon = True
        patience.start()
        heard = challenged = False
        with self._lock:
            self._call = call
        try:
            with call.abandonment.cancelling(incoming.cancel):
                for message in incoming:
                    heard = True
                    if message.HasField("challenge"):
                        if challenged:
                            raise PeerError("server challenged this node twice")
                        challenged = True
                        call.outgoing.put(enrolment.proof(message.challenge))
                    elif message.HasField("refused"):
                        return self._refused(message.refused)
                    elif message.HasField("welcome"):
                        if call.is_enrolled and not call.stays:
                            raise PeerError("server admitted this node twice")
                        patience.cancel()
                        call.is_enrolled, call.stays = True, message.welcome.stays
                        call.session = self._welcome(message.welcome, channel)
                    elif call.session is not None:
                        self._hand_on(message, call.session)
                    else:
                        raise PeerError("server sent work before it admitted this node")
            return "server closed the connection"
        except (PeerError, Abandoned) as error:
            return str(error)
        except grpc.RpcError as error:
            return call.abandonment.reason or self._cause(error, heard=heard)
        finally:
            patience.cancel()
            self.sessions.replace(None)
            with self._lock:
                self._call = None
            call.outgoing.put(None)
            channel.close()

    def _welcome(self, welcome: pb.Welcome, channel: grpc.Channel) -> Session:
        if len(welcome.session) != SESSION_BYTES or len(welcome.base_fingerprint) not in (0, DIGEST_BYTES):
            raise PeerError(
                f"server's welcome has a session of {len(welcome.session)} and a fingerprint of "
                f"{len(welcome.base_fingerprint)} bytes, expected {SESSION_BYTES} and {DIGEST_BYTES}"
            )
        is_none = welcome.run_id == 0 and welcome.stays
        config = {} if is_none else _run_config(welcome.run_config_json)
        named = shown(welcome.run_name)
        run = OfferedRun(welcome.run_id, config, welcome.base_fingerprint, stays=welcome.stays, name=named)
        self.backoff.reset()
        # A standing server may send many of them: no more are read than the node processes.
        self._pass_on(run)
        session = Session(channel, welcome, send=self.send)
        self.sessions.replace(session)
        return session

    def _hand_on(self, message: pb.ToNode, session: Session) -> None:
        if message.HasField("receipt"):
            session.receive(message.receipt)
        elif message.HasField("work"):
            session.given(message.work.task_id)
            self._pass_on(ClientTask.from_work(message.work))
        elif message.HasField("withdraw"):
            session.withdrawn(message.withdraw.task_id)
            self._pass_on(message.withdraw)
        elif message.HasField("unfit"):
            self._pass_on(message.unfit)
        elif message.HasField("drain"):
            self._pass_on(message.drain)

    def _pass_on(self, event: FromServer) -> None:
        while not self._room.acquire(timeout=_LOOK_S):
            if self._closing.is_asked:
                return
        self.post(event)

    def _refused(self, refused: pb.Refused) -> str | None:
        final = final_refusal(refused)
        if final is not None:
            self.post(final)
            return None
        detail = shown(refused.detail)
        if refused.reason == pb.REFUSED_REASON_FULL:
            return f"server accepts no more nodes now: {detail or 'it is full'}"
        return f"server did not admit this node: {detail or _word(refused.reason)}"

    def _cause(self, error: grpc.RpcError, *, heard: bool) -> str:
        code = cast("grpc.Call", error).code()
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return "a gRPC server answers there, but not plait's; check --server"
        if code is grpc.StatusCode.UNAVAILABLE and not heard and not self._closing.is_asked:
            return self.explain()
        return what_failed(error)


def _run_config(text: str) -> dict[str, Scalar]:
    table = json_object(text, what="server's run configuration")
    for key, value in table.items():
        if not isinstance(value, bool | int | float | str):
            raise PeerError(f"'{shown(key)}' of the server's run configuration is not a boolean, number or string")
    return cast("dict[str, Scalar]", table)


@dataclass(frozen=True)
class EnrolmentAttempt:
    """One attempt to enrol, with its own nonce; without a key on an insecure loopback connection."""

    name: str
    key: NodeKey | None
    nonce: bytes = field(default_factory=partial(secrets.token_bytes, NONCE_BYTES))

    def hello(self) -> pb.FromNode:
        """The node's first message."""
        hello = pb.Hello(protocol=PROTOCOL_VERSION, name=self.name, nonce=self.nonce, version=__version__)
        hello.public_key = self.key.public_bytes if self.key else b""
        return pb.FromNode(hello=hello)

    def proof(self, challenge: pb.Challenge) -> pb.FromNode:
        """The answer to the server's challenge."""
        if len(challenge.nonce) != NONCE_BYTES:
            raise PeerError(f"nonce of the server's challenge has {len(challenge.nonce)} bytes, expected {NONCE_BYTES}")
        if self.key is None:
            return pb.FromNode(proof=pb.Proof())
        public_key = self.key.public_bytes
        signed = enrolment_bytes(
            challenge_nonce=challenge.nonce, hello_nonce=self.nonce, public_key=public_key, name=self.name
        )
        return pb.FromNode(proof=pb.Proof(signature=self.key.sign(signed)))
