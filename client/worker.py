"""Do tasks one at a time in a thread, and send their answers in another; both go on while disconnected.

Bodies of tasks are downloaded first: resumed after an interruption, never more than declared, checked by digest.
"""

import hashlib
import io
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from enum import Enum, auto

from client.session import Backoff, FinalError, Retrying, Session, TryAgainError, UnwantedError
from client.task import (
    MAX_BODY_BYTES,
    Began,
    ClientTask,
    Delivered,
    Event,
    OfferedRun,
    Prepared,
    Reported,
    TaskAnswer,
    TaskHandle,
    TaskRunner,
    dropped,
    failure,
    watched_thread,
)
from plait.errors import Abandoned, MachineError, PeerError, PlaitError, PolicyError
from plait.report.wording import bytes_text
from plait.transport.protocol import CHUNK_BYTES, Data, chunks_of, pack_part
from plait.v1 import federation_pb2 as pb

_TRIES = 3  # for a body that arrives damaged


class Downloads:
    """Keeps the last body, since the tasks of a round share one, and the beginning of an incomplete one."""

    def __init__(self, retrying: Retrying, *, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._retrying = retrying
        self._max_bytes = max_bytes
        self._received = _Received(b"")
        self._whole = b""
        self.received_bytes = 0

    def fetch(self, handle: TaskHandle) -> bytes:
        """The body of a task, however often the connection breaks."""
        task = handle.task
        if task.body_bytes > self._max_bytes:
            raise PolicyError(
                f"task has {task.body_bytes / 1e6:.0f} MB, but max-task-mb of this client's policy allows at most "
                f"{self._max_bytes / 1e6:.0f}; to take part, raise it in the file given with --policy"
            )
        if not task.body_bytes:
            return b""
        if self._received.digest != task.body_sha256:
            self._received, self._whole = _Received(task.body_sha256), b""  # two in memory would be one too many
        if not self._whole:
            damaged = 0

            def attempt(session: Session, backoff: Backoff) -> bytes:
                nonlocal damaged
                try:
                    return self._receive(session, handle, backoff)
                except _DamagedError as error:
                    self._received = _Received(task.body_sha256)
                    damaged += 1
                    if damaged == _TRIES:
                        raise PeerError(f"{task.doing}: download is not what the server declared: {error}") from error
                    raise TryAgainError(f"it is not what the server declared: {error}") from error

            # Unwanted: finished meanwhile, or a restarted server has yet to assign it again.
            self._whole = self._retrying.until_done(
                attempt,
                handle,
                what="download",
                unwanted=lambda offers, why: handle.give_up(why, unless_offered_since=offers),
            )
        return self._whole

    def _receive(self, session: Session, handle: TaskHandle, backoff: Backoff) -> bytes:
        task, received = handle.task, self._received
        chunks = session.download(task.body_sha256, offset=received.size)
        with handle.abandonment.cancelling(chunks.cancel):
            for chunk in chunks:
                self.received_bytes += len(chunk)
                if received.size + len(chunk) > task.body_bytes:
                    chunks.cancel()
                    raise _DamagedError(f"it is longer than {task.body_bytes} bytes")
                received.add(chunk)
                backoff.reset()
        if received.size < task.body_bytes:
            raise TryAgainError(f"broke off at {received.size} of {task.body_bytes} bytes")
        return received.checked()


class _DamagedError(Exception):
    """The bytes differ from those declared."""


class _Received:
    """The beginning of a body; assembled and hashed as it arrives, in parallel with the transfer."""

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self._bytes = io.BytesIO()
        self._hash = hashlib.sha256()

    def add(self, chunk: Data) -> None:
        self._bytes.write(chunk)
        self._hash.update(chunk)

    @property
    def size(self) -> int:
        return self._bytes.tell()

    def checked(self) -> bytes:
        if self._hash.digest() != self.digest:
            raise _DamagedError("its digest differs")
        return self._bytes.getvalue()  # the buffer itself, not a copy


class _State(Enum):
    WAITING = auto()  # to be sent
    SHELVED = auto()  # until the server asks for it
    DELIVERED = auto()


@dataclass(eq=False)
class PendingUpload:
    """An answer and the progress of its delivery."""

    handle: TaskHandle
    answer: TaskAnswer
    state: _State = _State.WAITING
    tries: int = 0

    @property
    def task(self) -> ClientTask:
        """The task that it answers."""
        return self.handle.task


class AnswerUploads:
    """Answers on their way to the server, one at a time, in a separate thread."""

    def __init__(self, retrying: Retrying, *, post: Callable[[Event], None]) -> None:
        self._retrying = retrying
        self._post = post
        self._changed = threading.Condition()
        self._pending: dict[str, PendingUpload] = {}
        self._closed = False
        self._thread = watched_thread(self._deliver_all, name="uploads", post=post)
        self._thread.start()

    def put(self, task: ClientTask, answer: TaskAnswer) -> None:
        """Deliver an answer."""
        with self._changed:
            self._pending[task.task_id] = PendingUpload(TaskHandle(task), answer)
            self._changed.notify_all()

    def offer(self, task: ClientTask) -> bool:
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
            self._post(dropped(upload.task, reason))

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
                self._post(Reported("shelved", f"{task.doing}: done, kept until the server asks again", task.task_id))
            except (Abandoned, FinalError) as error:
                self._forget(upload)
                self._post(dropped(task, str(error)))
            else:
                self._post(delivered)

    def _next(self) -> PendingUpload | None:
        with self._changed:
            while not self._closed:
                for upload in self._pending.values():
                    if upload.state is _State.WAITING:
                        return upload
                self._changed.wait()
            return None

    def _try(self, session: Session, upload: PendingUpload) -> Delivered:
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
        sending = session.answer(task.task_id, answer.kind, answer.data) if upload.tries == 1 else None
        sending = sending or session.upload(_parts(session, task, answer, offset))
        with upload.handle.abandonment.cancelling(sending.cancel):
            receipt = sending.result()
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


def _fitting(session: Session, answer: TaskAnswer) -> TaskAnswer:
    if len(answer.data) <= session.max_answer_bytes:
        return answer
    has, most = bytes_text(len(answer.data)), bytes_text(session.max_answer_bytes)
    return TaskAnswer.failed(f"answer has {has}, but the server accepts at most {most}")


def _parts(session: Session, task: ClientTask, answer: TaskAnswer, offset: int) -> Iterator[bytes]:
    start = pb.UploadStart(
        session=session.token,
        task_id=task.task_id,
        content=answer.kind,
        size=len(answer.data),
        sha256=answer.sha256,
        offset=offset,
    )
    yield pb.UploadPart(start=start).SerializeToString()
    for chunk in chunks_of(answer.data, offset):
        yield pack_part(chunk)


MOST_WAITING = 8
"""Waiting tasks besides the current one; an honest server sends one at a time."""
_PREPARATION_S = 10.0


@dataclass(eq=False)
class Worker:
    """Works for one run at a time; `open_runner` prepares for it and may take minutes."""

    open_runner: Callable[[OfferedRun], TaskRunner]
    _: KW_ONLY
    downloads: Downloads
    uploads: AnswerUploads
    post: Callable[[Event], None]

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._run: OfferedRun | None = None  # to prepare for
        self._runner: TaskRunner | None = None
        self._waiting: deque[TaskHandle] = deque()
        self.current: TaskHandle | None = None
        self._confirmed = False
        self._busy = False
        self._closed = False
        self._thread = watched_thread(self._work, name="worker", post=self.post)
        self._thread.start()

    def move_to(self, run: OfferedRun | None) -> None:
        """Drop everything and prepare for a run; `Prepared` or an error reports the result.

        Without one, what was prepared stays until another begins.
        """
        self.withdraw_all("the server began another run" if run else "the run is over")
        with self._changed:
            self._run = run
            self._changed.notify_all()

    def reconnected(self) -> None:
        """The server will resend whatever it waits for; until then the current task may be unwanted."""
        with self._changed:
            self._waiting.clear()
            self._confirmed = False

    def take(self, task: ClientTask) -> bool:
        """Do a task, unless it is in progress already; False if more wait than a server has reason to send."""
        with self._changed:
            current = self.current
            if current is not None and not current.abandonment.is_asked:
                if current.task == task and current.offered_again():
                    self._confirmed = True
                    return True
                same_name = current.task.task_id == task.task_id
                # A server that begins another attempt at a masked sum has no use for anything of the one before.
                over = bool(task.attempt and current.task.attempt not in ("", task.attempt))
                unasked = not self._confirmed and current.task.message_type == task.message_type
                if same_name or over or unasked:
                    current.give_up("the server sent another task instead")
            if all(waiting.task != task for waiting in self._waiting):
                if len(self._waiting) >= MOST_WAITING:
                    return False
                self._waiting.append(TaskHandle(task))
                self._changed.notify_all()
            return True

    def withdraw(self, task_id: str, reason: str) -> None:
        """A task is no longer needed."""
        with self._changed:
            self._waiting = deque(waiting for waiting in self._waiting if waiting.task.task_id != task_id)
            if self.current is not None and self.current.task.task_id == task_id:
                self.current.give_up(reason)

    def withdraw_all(self, reason: str) -> None:
        """No task is needed any more."""
        with self._changed:
            self._waiting.clear()
            if self.current is not None:
                self.current.give_up(reason)

    def close(self) -> None:
        """Drop everything and end; the current task ends at its next step."""
        self.withdraw_all("the node stops")
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            preparing = self._busy and self.current is None
        # Preparation cannot be interrupted, and holds nothing that needs to be saved. But a library that still loads a
        # base while the process ends may abort it, and most bases are loaded in seconds.
        self._thread.join(_PREPARATION_S if preparing else None)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if isinstance(job, OfferedRun):
                self._make_ready(job)
            else:
                self._do(job)
            with self._changed:
                self._busy, self.current = False, None

    def _next(self) -> OfferedRun | TaskHandle | None:
        with self._changed:
            while not self._closed:
                if self._run is not None:
                    run, self._run = self._run, None
                    self._busy = True
                    return run
                if self._waiting:
                    self._busy, self._confirmed = True, True
                    self.current = self._waiting.popleft()
                    return self.current
                self._changed.wait()
            return None

    def _make_ready(self, run: OfferedRun) -> None:
        self._runner = None  # its memory is needed for the next one
        try:
            self._runner = self.open_runner(run)
        except PlaitError as error:
            self.post(error)
        except Exception as error:
            # Libraries raise anything; the operator gets one line.
            self.post(MachineError(f"cannot prepare for the run: {failure(error)}"))
        else:
            self.post(Prepared(run, self._runner))

    def _do(self, handle: TaskHandle) -> None:
        runner = self._runner
        if runner is None:
            return
        task, abandonment = handle.task, handle.abandonment
        self.post(Began(task))
        try:
            try:
                body = self.downloads.fetch(handle)
            except Abandoned:
                raise
            except PlaitError as error:
                answer = TaskAnswer.failed(str(error))
            else:
                with abandonment.obeyed():
                    answer = runner.answer(task, body)
            abandonment.check()
        except Abandoned:
            self.post(dropped(task, abandonment.reason))
        else:
            self.uploads.put(task, answer)
