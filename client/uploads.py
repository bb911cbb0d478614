"""Deliver answers until the server has them on its disk: over lost connections and restarts of the server.

An answer that a restarted server has not asked for yet waits until its task comes again. The newest delivered answer of
each message type is kept, so that a repeated task is not done again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from client.events import Delivered, Dropped, Event, Shelved
from client.retrying import FinalError, Retrying, UnwantedError
from client.session import Session
from client.task import Answer, Task
from client.task_handle import TaskHandle
from client.watched_thread import watched_thread
from client.wording import size
from plait.abandon import Abandoned
from plait.transport.chunks import chunks_of
from plait.transport.framing import pack_part
from plait.transport.protocol import CHUNK_BYTES
from plait.v1 import federation_pb2 as pb


class _State(Enum):
    WAITING = auto()  # to be sent
    SHELVED = auto()  # until the server asks for it
    DELIVERED = auto()


@dataclass(eq=False)
class PendingUpload:
    """An answer and the progress of its delivery."""

    handle: TaskHandle
    answer: Answer
    state: _State = _State.WAITING
    tries: int = 0

    @property
    def task(self) -> Task:
        """The task that it answers."""
        return self.handle.task


class Uploads:
    """Answers on their way to the server, one at a time, in a separate thread."""

    def __init__(self, retrying: Retrying, *, tell: Callable[[Event], None]) -> None:
        self._retrying = retrying
        self._tell = tell
        self._changed = threading.Condition()
        self._pending: dict[str, PendingUpload] = {}
        self._closed = False
        self._thread = watched_thread(self._deliver_all, name="uploads", tell=tell)
        self._thread.start()

    def put(self, task: Task, answer: Answer) -> None:
        """Deliver an answer."""
        with self._changed:
            self._pending[task.task_id] = PendingUpload(TaskHandle(task), answer)
            self._changed.notify_all()

    def offer(self, task: Task) -> bool:
        """A task came (again): whether its answer exists already and is on its way.

        An answer of that type that waits to be asked for is given up: the server has moved on.
        """
        with self._changed:
            upload = self._pending.get(task.task_id)
            if upload is not None and upload.task == task:
                upload.handle.offered_again()
                upload.state = _State.WAITING
                self._changed.notify_all()
                return True
            for other in list(self._pending.values()):
                obsolete = other.state is _State.SHELVED and other.task.message_type == task.message_type
                if obsolete or other is upload:
                    self._drop(other, "the server sent another task instead")
            return False

    def withdraw(self, task_id: str, reason: str) -> None:
        """Give up an answer that is on its way, if there is one."""
        with self._changed:
            upload = self._pending.get(task_id)
            if upload is not None and upload.state is not _State.DELIVERED:
                self._drop(upload, reason)

    def withdraw_all(self, reason: str) -> None:
        """Give up everything, including delivered answers, such as those of another run."""
        with self._changed:
            for upload in list(self._pending.values()):
                self._drop(upload, reason)

    def close(self) -> None:
        """Give up everything and end."""
        self.withdraw_all("the node stops")
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _drop(self, upload: PendingUpload, reason: str) -> None:
        self._pending.pop(upload.task.task_id, None)
        upload.handle.give_up(reason)
        if upload.state is _State.SHELVED:
            self._tell(Dropped(upload.task, reason))

    def _deliver_all(self) -> None:
        while (upload := self._next()) is not None:
            task = upload.task
            try:
                delivered = self._retrying.until_done(
                    lambda session, _, upload=upload: self._try(session, upload),
                    upload.handle,
                    what="upload",
                    unwanted=lambda offers, _, upload=upload: self._shelve(upload, offers),
                )
            except UnwantedError:
                self._tell(Shelved(task))
            except (Abandoned, FinalError) as error:
                self._forget(upload)
                self._tell(Dropped(task, str(error)))
            else:
                self._tell(delivered)

    def _next(self) -> PendingUpload | None:
        with self._changed:
            while not self._closed:
                for upload in self._pending.values():
                    if upload.state is _State.WAITING:
                        return upload
                self._changed.wait()
            return None

    def _try(self, session: Session, upload: PendingUpload) -> Delivered:
        """Send an answer, or its missing part.

        Raises:
            UnwantedError: the server has not asked for it.
        """
        task, answer, offset = upload.task, _fitting(session, upload.answer), 0
        upload.tries += 1
        if upload.tries > 1 or len(answer.data) > CHUNK_BYTES:
            held = session.held(task.task_id, answer.sha256)
            if held.unknown:
                raise UnwantedError
            if held.late or held.complete:
                self._delivered(upload)
                return Delivered(task, 0, kept=not held.late, failure=answer.failure)
            offset = min(held.offset, len(answer.data))
        receiving = (
            session.answer(task.task_id, pb.Content.Name(answer.kind), answer.data) if upload.tries == 1 else None
        )
        if receiving is None:
            receiving = session.upload(_parts(session, task, answer, offset))
        with upload.handle.abandonment.cancelling(receiving.cancel):
            receipt = receiving.result()
        self._delivered(upload)
        return Delivered(task, len(answer.data) - offset, kept=receipt.kept, failure=answer.failure)

    def _shelve(self, upload: PendingUpload, offers: int) -> bool:
        """Keep an answer until it is asked for; False if that has happened since that number of offers."""
        with self._changed:
            upload.handle.abandonment.check()
            if upload.handle.offers != offers:
                return False
            upload.state = _State.SHELVED
            return True

    def _delivered(self, upload: PendingUpload) -> None:
        """Keep a delivered answer, and no older one of its message type."""
        with self._changed:
            if self._pending.get(upload.task.task_id) is not upload:
                return
            upload.state = _State.DELIVERED
            for other in list(self._pending.values()):
                same_type = other.task.message_type == upload.task.message_type
                if other is not upload and other.state is _State.DELIVERED and same_type:
                    del self._pending[other.task.task_id]

    def _forget(self, upload: PendingUpload) -> None:
        with self._changed:
            if self._pending.get(upload.task.task_id) is upload:
                del self._pending[upload.task.task_id]


def _fitting(session: Session, answer: Answer) -> Answer:
    if len(answer.data) <= session.max_answer_bytes:
        return answer
    return Answer.failed(
        f"answer has {size(len(answer.data))}, expected at most {size(session.max_answer_bytes)}, the server's limit"
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
    for chunk in chunks_of(answer.data, offset):
        yield pack_part(chunk)
