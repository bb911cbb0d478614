"""The session granted by a server; its calls, repeated over lost connections and restarts with growing waits.

Bodies and large answers bypass protobuf, which would copy them twice. Full jitter (a wait drawn between nothing and the
bound) spreads out nodes that lost the server at the same moment.
"""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, cast

import grpc

from client.task import Abandonment, TaskHandle, shown
from plait.errors import PeerError
from plait.transport.protocol import HEAD_BYTES, Data, unpack_chunk
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import FederationStub

_LOOK_S = 0.2
_HELD_S = 30.0
_SERVICE = f"/{pb.DESCRIPTOR.services_by_name['Federation'].full_name}"

Begun = TypeVar("Begun")
Message = TypeVar("Message", covariant=True)


class SessionOverError(Exception):
    """The session's connection was just closed here."""


class IncomingStream(Protocol[Message]):
    """What a server streams."""

    def __iter__(self) -> Iterator[Message]: ...
    def cancel(self) -> bool:
        """Stop receiving."""
        ...


Sending: TypeAlias = "Future[pb.Receipt] | grpc.Future[pb.Receipt]"
"""An answer on its way."""


class Session:
    """The calls of an enrolled node; one raises SessionOverError once the connection is gone."""

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

    def answer(self, task_id: str, content: pb.Content, data: Data) -> "Sending | None":
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

    def download(self, sha256: bytes, *, offset: int) -> IncomingStream[Data]:
        """Request a body."""
        request = pb.DownloadRequest(session=self.token, sha256=sha256, offset=offset)
        return cast("IncomingStream[Data]", _begin(lambda: self._download(request)))

    def held(self, task_id: str, sha256: bytes) -> pb.HeldReply:
        """Ask how much of an answer the server has."""
        request = pb.HeldRequest(session=self.token, task_id=task_id, sha256=sha256)
        return _begin(lambda: cast("pb.HeldReply", self._stub.Held(request, timeout=_HELD_S)))

    def upload(self, parts: Iterator[bytes]) -> Sending:
        """Begin to send an answer, in serialised parts."""
        return cast("Sending", _begin(lambda: self._upload.future(parts)))


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
        """The session, as soon as there is one."""
        with self._changed:
            while self._session is None:
                abandonment.check()
                self._changed.wait(_LOOK_S)
            abandonment.check()
            return self._session


FIRST_S = 0.5
SOON_S, SOON_FOR_S = 5.0, 120.0
MOST_S = 60.0

Result = TypeVar("Result")


FINAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""A retry cannot help."""
UNWANTED = frozenset({grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND})
"""The server does not wait for this task, or not yet. After any other code a call is tried again."""

# Codes whose text is the server's own; for the others it describes gRPC's internals.
_SERVERS_OWN_TEXTS = frozenset(
    {*FINAL, *UNWANTED, grpc.StatusCode.ABORTED, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAUTHENTICATED}
) - {grpc.StatusCode.UNIMPLEMENTED}
_IN_PLAIN_WORDS = {
    grpc.StatusCode.CANCELLED: "the call to the server was interrupted",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the server did not answer in time",
    grpc.StatusCode.UNAVAILABLE: "the connection to the server is lost",
    grpc.StatusCode.UNIMPLEMENTED: "the server does not know this call; install the plait version that it runs",
}


class TryAgainError(Exception):
    """An attempt failed although gRPC saw no failure; the message is the cause."""


class UnwantedError(Exception):
    """The server does not wait for this task, or has not asked for it yet."""


class FinalError(PeerError):
    """The server refuses, and would refuse the same again."""


def what_failed(error: grpc.RpcError) -> str:
    """Why a call failed, in plain words on one line."""
    call = cast("grpc.Call", error)
    details, code = shown(call.details() or ""), call.code()
    if details and (code in _SERVERS_OWN_TEXTS or details.startswith("server cannot")):
        return details
    return _IN_PLAIN_WORDS.get(code, "the server failed at this call; see its log")


class Backoff:
    """Waits that grow until a success: up to `first_s` seconds, then twice as long, up to `most_s`.

    For the first two minutes they stay below 5 seconds: a restarted server is back soon.
    """

    def __init__(
        self, *, first_s: float = FIRST_S, most_s: float = MOST_S, draw: Callable[[float, float], float] | None = None
    ) -> None:
        self._first_s, self._most_s = first_s, most_s
        self._draw = draw or random.SystemRandom().uniform
        self.reset()

    def next_s(self) -> float:
        """Seconds to wait now."""
        wait_s = self._draw(0.0, self._bound_s)
        self._waited_s += wait_s
        most_s = min(SOON_S, self._most_s) if self._waited_s < SOON_FOR_S else self._most_s
        self._bound_s = min(2 * self._bound_s, most_s)
        return wait_s

    def reset(self) -> None:
        """A success: the next wait is short again."""
        self._bound_s, self._waited_s = self._first_s, 0.0


@dataclass(frozen=True)
class Retrying:
    """How calls are retried; `backoff` makes the waits of one call."""

    sessions: CurrentSession
    backoff: Callable[[], Backoff]
    trouble: Callable[[str], None]

    def until_done(
        self,
        attempt: Callable[[Session, Backoff], Result],
        handle: TaskHandle,
        *,
        what: str,
        unwanted: Callable[[int, str], bool],
    ) -> Result:
        """Call `attempt` with the current session until it succeeds; it resets the backoff whenever it makes progress.

        If the server does not wait for the task, `unwanted`, called with the number of offers before the attempt and
        the reason, returns whether that is final: then UnwantedError. FinalError: a retry cannot help. Abandoned: the
        task was given up.
        """
        abandonment, backoff = handle.abandonment, self.backoff()
        while True:
            session, offers = self.sessions.wait(abandonment), handle.offers
            try:
                return attempt(session, backoff)
            except SessionOverError:
                continue
            except (grpc.FutureCancelledError, CancelledError):
                code, why = None, "broken off"
            except grpc.RpcError as error:
                code, why = cast("grpc.Call", error).code(), what_failed(error)
            except TryAgainError as error:
                code, why = None, str(error)
            except UnwantedError:
                code, why = grpc.StatusCode.NOT_FOUND, "the server has not asked for it yet"
            abandonment.check()
            cause = f"{handle.task.doing}: {what}: {why}"
            if code in FINAL:
                raise FinalError(cause)
            if code in UNWANTED and unwanted(offers, why):
                abandonment.check()
                raise UnwantedError(cause)
            self.trouble(cause)
            abandonment.pause(backoff.next_s())
