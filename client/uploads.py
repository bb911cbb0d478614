"""Deliver answers until the server has them on its disk: over broken connections and restarts of the server.

An answer that the server has not asked for (since it was restarted, and has not come to that yet) waits until its task
comes again. The newest delivered answer of each message type is kept, so that a task that comes again is not done anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import cast

import grpc

from client.backoff import Backoff
from client.calls import what_failed
from client.effort import Effort
from client.events import Delivered, Dropped, Event, Shelved
from client.session import CurrentSession, Session, SessionOverError
from client.task import Answer, Task
from client.watched_thread import watched_thread
from client.wording import size
from plait.abandon import Abandoned
from plait.transport.framing import pack_part
from plait.transport.protocol import CHUNK_BYTES
from plait.v1 import federation_pb2 as pb

# What trying the same bytes again cannot mend.
_FINAL = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED})


class _State(Enum):
    WAITING = auto()  # to be sent
    SHELVED = auto()  # until the server asks for it
    DELIVERED = auto()


@dataclass
class _Parcel:
    effort: Effort
    answer: Answer
    state: _State = _State.WAITING
    tries: int = 0
    offers: int = 0


class Uploads:
    """Answers on their way to the server, one at a time, in a thread of its own.

    Args:
        sessions: whom to send to.
        backoff: makes the waits of one answer.
        tell: told what became of answers.
        trouble: told of what will be tried again.
    """

    def __init__(
        self,
        sessions: CurrentSession,
        *,
        backoff: Callable[[], Backoff],
        tell: Callable[[Event], None],
        trouble: Callable[[str], None],
    ) -> None:
        self._sessions = sessions
        self._backoff = backoff
        self._tell = tell
        self._trouble = trouble
        self._changed = threading.Condition()
        self._parcels: dict[str, _Parcel] = {}
        self._closed = False
        self._thread = watched_thread(self._deliver_all, name="uploads", tell=tell)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether everything that can be delivered is."""
        with self._changed:
            return all(parcel.state is not _State.WAITING for parcel in self._parcels.values())

    def put(self, task: Task, answer: Answer) -> None:
        """Deliver an answer."""
        with self._changed:
            self._parcels[task.task_id] = _Parcel(Effort(task), answer)
            self._changed.notify_all()

    def offer(self, task: Task) -> bool:
        """A task came (again): whether its answer is here already, and so on its way.

        An answer to another task of that type that is waiting to be asked for is given up: the server has moved on.
        """
        with self._changed:
            parcel = self._parcels.get(task.task_id)
            if parcel is not None and parcel.effort.task == task:
                parcel.offers += 1
                if parcel.state is not _State.WAITING:
                    self._parcels[task.task_id] = _Parcel(Effort(task), parcel.answer, tries=parcel.tries)
                    self._changed.notify_all()
                return True
            for other in list(self._parcels.values()):
                obsolete = other.state is _State.SHELVED and other.effort.task.message_type == task.message_type
                if obsolete or other is parcel:
                    self._drop(other, "the server sent another task instead")
            return False

    def withdraw(self, task_id: str, reason: str) -> bool:
        """Give up an answer that is on its way; False if there is none."""
        with self._changed:
            parcel = self._parcels.get(task_id)
            if parcel is None or parcel.state is _State.DELIVERED:
                return False
            self._drop(parcel, reason)
            return True

    def withdraw_all(self, reason: str) -> None:
        """Give up everything, delivered answers too (they belong to another run, say)."""
        with self._changed:
            for parcel in list(self._parcels.values()):
                self._drop(parcel, reason)

    def close(self) -> None:
        """Give up everything and end."""
        self.withdraw_all("the node stops")
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _drop(self, parcel: _Parcel, reason: str) -> None:
        self._parcels.pop(parcel.effort.task.task_id, None)
        parcel.effort.call_off(reason)
        if parcel.state is _State.SHELVED:
            self._tell(Dropped(parcel.effort.task, reason))

    def _deliver_all(self) -> None:
        while (parcel := self._next()) is not None:
            try:
                self._deliver(parcel)
            except Abandoned as abandoned:
                self._tell(Dropped(parcel.effort.task, str(abandoned)))

    def _next(self) -> _Parcel | None:
        with self._changed:
            while not self._closed:
                for parcel in self._parcels.values():
                    if parcel.state is _State.WAITING:
                        return parcel
                self._changed.wait()
            return None

    def _deliver(self, parcel: _Parcel) -> None:
        effort, backoff = parcel.effort, self._backoff()
        while True:
            session, offers = self._sessions.wait(effort), parcel.offers
            try:
                if self._try(session, parcel) or self._shelve(parcel, offers):
                    return
                cause = f"{effort.task.doing}: answer was asked for again meanwhile"
            except SessionOverError:
                continue
            except grpc.FutureCancelledError:
                effort.check()
                cause = f"{effort.task.doing}: upload was broken off"
            except grpc.RpcError as error:
                effort.check()
                code = cast("grpc.Call", error).code()
                cause = f"{effort.task.doing}: upload: {what_failed(error)}"
                if code in _FINAL:
                    self._give_up(parcel, cause)
                    return
                if code is grpc.StatusCode.FAILED_PRECONDITION and self._shelve(parcel, offers):
                    return
            self._trouble(cause)
            effort.pause(backoff.next_s())

    def _try(self, session: Session, parcel: _Parcel) -> bool:
        """Send an answer, or what is missing of it; False if the server has not asked for it."""
        task, answer = parcel.effort.task, self._fitting(session, parcel.answer)
        offset = 0
        parcel.tries += 1
        if parcel.tries > 1 or len(answer.data) > CHUNK_BYTES:
            held = session.held(task.task_id, answer.sha256)
            if held.unknown:
                return False
            if held.late or held.complete:
                self._delivered(parcel)
                self._tell(Delivered(task, 0, kept=not held.late, failure=answer.failure))
                return True
            offset = min(held.offset, len(answer.data))
        receiving = session.upload(_parts(session, task, answer, offset))
        with parcel.effort.cancelling(receiving.cancel):
            receipt = receiving.result()
        self._delivered(parcel)
        sent = len(answer.data) - offset
        self._tell(Delivered(task, sent, kept=receipt.kept, failure=answer.failure))
        return True

    def _shelve(self, parcel: _Parcel, offers: int) -> bool:
        """Keep an answer until it is asked for; False if that happened since there were so many offers."""
        with self._changed:
            parcel.effort.check()
            if parcel.offers != offers:
                return False
            parcel.state = _State.SHELVED
        self._tell(Shelved(parcel.effort.task))
        return True

    def _delivered(self, parcel: _Parcel) -> None:
        task = parcel.effort.task
        with self._changed:
            if self._parcels.get(task.task_id) is not parcel:
                return
            parcel.state = _State.DELIVERED
            for other in list(self._parcels.values()):
                same_type = other.effort.task.message_type == task.message_type
                if other is not parcel and other.state is _State.DELIVERED and same_type:
                    del self._parcels[other.effort.task.task_id]

    def _give_up(self, parcel: _Parcel, cause: str) -> None:
        with self._changed:
            if self._parcels.get(parcel.effort.task.task_id) is parcel:
                del self._parcels[parcel.effort.task.task_id]
        self._tell(Dropped(parcel.effort.task, cause))

    @staticmethod
    def _fitting(session: Session, answer: Answer) -> Answer:
        if len(answer.data) <= session.max_answer_bytes:
            return answer
        return Answer.failed(
            f"answer has {size(len(answer.data))}, expected at most the {size(session.max_answer_bytes)} "
            "that the server takes"
        )


def _parts(session: Session, task: Task, answer: Answer, offset: int) -> Iterator[bytes]:
    start = pb.UploadStart(
        session=session.token,
        task_id=task.task_id,
        content=pb.Content.Name(answer.kind),
        size=len(answer.data),
        sha256=answer.sha256,
        offset=offset,
    )
    yield pb.UploadPart(start=start).SerializeToString()
    view = memoryview(answer.data)
    for begin in range(offset, len(view), CHUNK_BYTES):
        yield pack_part(view[begin : begin + CHUNK_BYTES])
