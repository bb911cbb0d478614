"""Keep a node connected: enrol, hand on what the server sends, and come back for as long as it takes.

Knows nothing of what tasks are about.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from typing import cast

import grpc

from client.backoff import Backoff
from client.calls import Attending, Calls, what_failed
from client.enrolment import Credential, Enrolment
from client.events import Draining, Event, Failed, Lost, Offered, Welcomed, Withdrawn
from client.refusals import final_refusal, passing_refusal
from client.session import CurrentSession, Session
from client.task import Task
from client.watched_thread import watched_thread
from client.wording import shown
from client.workplace import Run
from plait.config import Scalar
from plait.errors import PeerError
from plait.transport.protocol import DIGEST_BYTES, SESSION_BYTES
from plait.v1 import federation_pb2 as pb

_ENROL_S = 30.0
_GOODBYE_S = 2.0
_MOST_UNHEARD = 32
_LOOK_S = 0.2


class Connection:
    """The node's long call to the server, and its successors.

    Args:
        open_channel: a new channel to the server.
        credential: who the node is.
        sessions: where the session of the moment is kept for other calls.
        backoff: the waits between attempts.
        explain: why no connection comes about, found out by trying; may take seconds.
        tell: told what happens.
    """

    def __init__(
        self,
        open_channel: Callable[[], grpc.Channel],
        credential: Credential,
        *,
        sessions: CurrentSession,
        backoff: Backoff,
        explain: Callable[[], str],
        tell: Callable[[Event], None],
    ) -> None:
        self._open_channel = open_channel
        self._credential = credential
        self._sessions = sessions
        self._backoff = backoff
        self._explain = explain
        self._tell = tell
        self._closing = threading.Event()
        self._lock = threading.Lock()
        # What was said and not dealt with yet: past this the server waits, not this node's memory.
        self._room = threading.Semaphore(_MOST_UNHEARD)
        self._broken_off = ""
        self._outgoing: queue.SimpleQueue[pb.FromNode | None] | None = None
        self._call: Attending | None = None
        self._is_welcome = False
        self._thread = watched_thread(self._stay, name="connection", tell=tell)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def send(self, message: pb.FromNode) -> None:
        """Say something to the server, if this node is enrolled; before the proof it would be refused for good."""
        with self._lock:
            if self._outgoing is not None and self._is_welcome:
                self._outgoing.put(message)

    def heard(self) -> None:
        """A task, its withdrawal or a farewell was dealt with: the server may be listened to further."""
        self._room.release()

    def break_off(self, cause: str) -> None:
        """End the call of a server that does not keep to the protocol; another is tried later.

        Args:
            cause: for the operator.
        """
        with self._lock:
            self._broken_off, call = cause, self._call
        if call is not None:
            call.cancel()

    def close(self) -> None:
        """Say goodbye and end."""
        self._closing.set()
        with self._lock:
            outgoing, call = self._outgoing, self._call
        if outgoing is not None:
            outgoing.put(None)
        if self._thread.ident is None:
            return
        self._thread.join(_GOODBYE_S)
        if self._thread.is_alive() and call is not None:
            call.cancel()
        self._thread.join(_GOODBYE_S)

    def _stay(self) -> None:
        while not self._closing.is_set():
            try:
                cause = self._attend()
            except PeerError as error:
                cause = str(error)
            if cause is None or self._closing.is_set():
                return
            wait_s = self._backoff.next_s()
            self._tell(Lost(cause, wait_s))
            self._closing.wait(wait_s)

    def _attend(self) -> str | None:
        """One connection from beginning to end: why it ended, None if there is to be no other."""
        channel = self._open_channel()
        outgoing: queue.SimpleQueue[pb.FromNode | None] = queue.SimpleQueue()
        calls = Calls(channel)
        enrolment = Enrolment(self._credential)
        outgoing.put(enrolment.hello())
        call = calls.attend(iter(outgoing.get, None))
        patience = threading.Timer(_ENROL_S, call.cancel)
        patience.daemon = True
        patience.start()
        heard = challenged = welcomed = False
        with self._lock:
            self._call, self._outgoing, self._broken_off, self._is_welcome = call, outgoing, "", False
        try:
            for message in call:
                heard = True
                if message.HasField("challenge"):
                    if challenged:
                        raise PeerError("server challenged this node twice, expected a welcome")
                    challenged = True
                    outgoing.put(enrolment.proof(message.challenge))
                elif message.HasField("refused"):
                    return self._refused(message.refused)
                elif message.HasField("welcome"):
                    if welcomed:
                        raise PeerError("server took this node in twice, expected work")
                    patience.cancel()
                    welcomed = True
                    with self._lock:
                        self._is_welcome = True
                    self._welcome(message.welcome, calls)
                elif welcomed:
                    self._hand_on(message)
                else:
                    raise PeerError("server sent work before it took this node in, expected a challenge or a welcome")
            return "server closed the connection"
        except grpc.RpcError as error:
            return self._cause(error, heard=heard, timed_out=patience.finished.is_set() and not welcomed)
        finally:
            patience.cancel()
            self._sessions.replace(None)
            with self._lock:
                self._call = self._outgoing = None
            outgoing.put(None)
            channel.close()

    def _welcome(self, welcome: pb.Welcome, calls: Calls) -> None:
        if len(welcome.session) != SESSION_BYTES or len(welcome.base_fingerprint) not in (0, DIGEST_BYTES):
            raise PeerError(
                f"server's welcome has a session of {len(welcome.session)} and a fingerprint of "
                f"{len(welcome.base_fingerprint)} bytes, expected {SESSION_BYTES} and {DIGEST_BYTES}"
            )
        config = _run_config(welcome.run_config_json)
        self._backoff.reset()
        self._tell(Welcomed(Run(welcome.run_id, welcome.node_id, config, welcome.base_fingerprint)))
        self._sessions.replace(Session(calls, welcome.session, welcome.max_answer_bytes))

    def _hand_on(self, message: pb.ToNode) -> None:
        if message.HasField("work"):
            self._pass_on(Offered(Task.from_work(message.work)))
        elif message.HasField("withdraw"):
            self._pass_on(Withdrawn(message.withdraw.task_id, message.withdraw.reason))
        elif message.HasField("drain"):
            self._pass_on(Draining(message.drain.finished))

    def _pass_on(self, event: Offered | Withdrawn | Draining) -> None:
        while not self._room.acquire(timeout=_LOOK_S):
            if self._closing.is_set():
                return
        self._tell(event)

    def _refused(self, refused: pb.Refused) -> str | None:
        final = final_refusal(refused)
        if final is None:
            return passing_refusal(refused)
        self._tell(Failed(final))
        return None

    def _cause(self, error: grpc.RpcError, *, heard: bool, timed_out: bool) -> str:
        if self._closing.is_set():
            return ""
        if self._broken_off:
            return self._broken_off
        if timed_out:
            return f"server did not take this node in within {_ENROL_S:.0f} s; is it overloaded?"
        code = cast("grpc.Call", error).code()
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return "a gRPC server answers there, but not plait's; check --server"
        if code is grpc.StatusCode.UNAVAILABLE and not heard:
            return self._explain()
        return what_failed(error)


def _run_config(text: str) -> dict[str, Scalar]:
    try:
        table: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PeerError("server's run configuration is not JSON, expected one object") from error
    if not isinstance(table, dict):
        raise PeerError(f"server's run configuration is a JSON {type(table).__name__}, expected an object")
    for key, value in cast("dict[str, object]", table).items():
        if not isinstance(value, bool | int | float | str):
            raise PeerError(f"'{shown(key)}' of the server's run configuration is no boolean, number or string")
    return cast("dict[str, Scalar]", table)
