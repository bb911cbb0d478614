"""Tasks of a server, who does them, and what happens to them and to a node: as events for its loop and its operator.

An operator sees a line per event, without training text; a program a JSON object.
"""

import hashlib
import json
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Self, TextIO

from plait.config import Scalar
from plait.errors import OBEYED, Abandoned, MachineError, PeerError, PlaitError, PolicyError
from plait.rounds.channel import Answering, round_and_attempt
from plait.system.text import fitted, printable
from plait.transport.protocol import DIGEST_BYTES, HEAD_BYTES
from plait.v1 import federation_pb2 as pb
from plait.wire.messages import Refusal, RefusalReason, decode_reply, encode_reply

_MOST_CHARACTERS = 200


def shown(text: str) -> str:
    """Text from outside as one short printable line."""
    return printable(text, limit=_MOST_CHARACTERS)


def failure(error: BaseException) -> str:
    """The type and place of a failure; never the error's own message, which may quote training text."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


class Style(Enum):
    """Format of the events."""

    LINES = auto()
    JSON = auto()
    QUIET = auto()


@dataclass(eq=False)
class Journal:
    """Prints events as they come, from any thread."""

    style: Style
    screen: TextIO

    def __post_init__(self) -> None:
        self._lock = Lock()

    def report(self, event: str, text: str, **facts: Scalar) -> None:
        """Print one event."""
        if self.style is Style.QUIET:
            return
        if self.style is Style.JSON:
            line = json.dumps({"time": round(time.time(), 3), "event": event, "text": text, **facts})
        else:
            line = f"{time.strftime('%H:%M:%S')} {text}"
        try:
            with self._lock:
                self.screen.write(fitted(line, self.screen, indent=len("HH:MM:SS ")) + "\n")
                self.screen.flush()
        except (OSError, ValueError):
            # The reader of the output has gone; the node continues.
            self.style = Style.QUIET


MAX_BODY_BYTES = 1 << 31
_MAX_NAME_CHARACTERS = 200


@dataclass(frozen=True)
class ClientTask:
    """A task, whose bytes are its head and its body; two are equal if they have the same name and the same bytes."""

    task_id: str
    message_type: str
    group_id: str
    head: bytes
    body_bytes: int
    body_sha256: bytes

    @classmethod
    def from_work(cls, work: pb.Work) -> Self:
        """Check and convert a message from outside."""
        names = (work.task_id, work.message_type, work.group_id)
        if not work.task_id or not work.message_type or max(map(len, names)) > _MAX_NAME_CHARACTERS:
            raise PeerError(
                f"task '{shown(work.task_id)}' of type '{shown(work.message_type)}' lacks a name, or has a long one"
            )
        if len(work.head) > HEAD_BYTES or work.body_bytes > MAX_BODY_BYTES:
            raise PeerError(
                f"task '{shown(work.task_id)}' has a head of {len(work.head)} and a body of {work.body_bytes} bytes, "
                f"expected at most {HEAD_BYTES} and {MAX_BODY_BYTES}"
            )
        if len(work.body_sha256) != (DIGEST_BYTES if work.body_bytes else 0):
            raise PeerError(f"digest of the body of task '{shown(work.task_id)}' has {len(work.body_sha256)} bytes")
        return cls(*names, work.head, work.body_bytes, work.body_sha256)

    @property
    def doing(self) -> str:
        """Description of the work on it."""
        verbs = {"query": "describing the data", "train": "training", "evaluate": "evaluating", "mask": "masking"}
        category, _, action = self.message_type.partition(".")
        if action == "mask":
            category = action
        verb = verbs.get(category, shown(self.message_type))
        return verb if category == "query" else f"round {shown(round_and_attempt(self.group_id)[0])}: {verb}"

    @property
    def attempt(self) -> str:
        """The attempt at a masked sum that it belongs to; empty for none."""
        return round_and_attempt(self.group_id)[1]


@dataclass(frozen=True)
class TaskAnswer:
    """The bytes of an answer, and why the task failed, if it did, for the operator."""

    kind: pb.Content
    data: bytes
    failure: str = ""

    @cached_property
    def sha256(self) -> bytes:
        """The digest of its bytes."""
        return hashlib.sha256(self.data).digest()

    @classmethod
    def failed(cls, cause: str) -> Self:
        """One line with the reason for no answer."""
        return cls(pb.CONTENT_ERROR, shown(cause).encode(), failure=shown(cause))


class Abandonment:
    """A request that one piece of work stop: made in any thread, obeyed by the work at its next step or wait."""

    def __init__(self) -> None:
        self.reason, self.steps = "", 0
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._cancel: Callable[[], object] | None = None

    @property
    def is_asked(self) -> bool:
        """Whether the work should stop."""
        return self._asked.is_set()

    def ask(self, reason: str) -> None:
        """Make the work stop soon; the first reason, a few words for the operator, counts."""
        with self._lock:
            if self._asked.is_set():
                return
            self.reason = reason
            self._asked.set()
            cancel = self._cancel
        if cancel is not None:
            cancel()

    def check(self) -> None:
        """Raise `Abandoned` if the work should stop."""
        if self._asked.is_set():
            raise Abandoned(self.reason)

    def pause(self, seconds: float) -> None:
        """Wait, and check."""
        self._asked.wait(seconds)
        self.check()

    @contextmanager
    def cancelling(self, cancel: Callable[[], object]) -> Generator[None]:
        """Call `cancel` as soon as the work should stop while the block runs, or raise `Abandoned` if it should."""
        with self._lock:
            self._cancel = cancel
        try:
            if self.is_asked:
                cancel()
            self.check()
            yield
        finally:
            with self._lock:
                self._cancel = None

    @contextmanager
    def obeyed(self) -> Generator[None]:
        """Make `check_abandoned` call `step`, in this thread, while the block runs."""
        token = OBEYED.set(self.step)
        try:
            yield
        finally:
            OBEYED.reset(token)

    def step(self) -> None:
        """Count a step, and check."""
        self.steps += 1
        self.check()


class TaskHandle:
    """Work on one task, or the sending of its answer; `abandonment` stops it."""

    def __init__(self, task: ClientTask) -> None:
        self.task = task
        self.abandonment = Abandonment()
        self.offers = 1
        self._lock = threading.Lock()

    def offered_again(self) -> bool:
        """The server sent the task again; False if it was given up before and must be restarted."""
        with self._lock:
            self.offers += not self.abandonment.is_asked
            return not self.abandonment.is_asked

    def give_up(self, reason: str, *, unless_offered_since: int | None = None) -> bool:
        """Make the work end soon; False if the task was offered more often than that, so that the server waits."""
        with self._lock:
            if unless_offered_since not in (None, self.offers):
                return False
            self.abandonment.ask(reason)
            return True


_LARGEST_REFUSAL = 65536


@dataclass(frozen=True)
class OfferedRun:
    """A server's description of its run when it admits a node; if it `stays`, another may follow.

    The fingerprint of the base has 32 bytes; it is empty where any will do.
    """

    run_id: int
    config: Mapping[str, Scalar]
    base_fingerprint: bytes
    stays: bool = False
    name: str = field(default="", compare=False)

    @property
    def is_none(self) -> bool:
        """Whether the server has no run for this node now."""
        return self.run_id == 0 and self.stays


@dataclass(frozen=True)
class TaskRunner:
    """Does the tasks of one run; `answer` raises `Abandoned` if the result is no longer needed.

    `ready` is what the node can do, as it reports to the server; `declined` why it takes no part in the run, if so.
    """

    ready: pb.Ready
    answer: Callable[[ClientTask, bytes], TaskAnswer]
    declined: PlaitError | None = None


def participant_runner(
    participant: Answering, *, ready: pb.Ready, refusal: Callable[[], str] = lambda: ""
) -> TaskRunner:
    """A participant at work on one run; `refusal` gives its newest in more words than the server may have.

    What goes wrong becomes an answer with the cause, without a word of the data.
    """

    def answer(task: ClientTask, body: bytes) -> TaskAnswer:
        try:
            data = participant.answer(task.head + body)
        except Abandoned:
            raise
        except PlaitError as error:
            return TaskAnswer.failed(str(error))
        except Exception as error:
            # Libraries raise anything; the node outlives it.
            return TaskAnswer.failed(failure(error))
        return TaskAnswer(pb.CONTENT_PLAIT, data, failure=_refusal_in(data, refusal))

    return TaskRunner(ready, answer)


def _refusal_in(data: bytes, in_full: Callable[[], str]) -> str:
    try:
        reply = decode_reply(data, max_bytes=_LARGEST_REFUSAL)
    except PeerError:
        return ""
    if not isinstance(reply, Refusal):
        return ""
    return f"{reply.reason.name.lower().replace('_', ' ')}: {in_full() or reply.detail}"


def declining_runner(run: OfferedRun, name: str, error: PlaitError) -> TaskRunner:
    """Reports to the server why this node takes no part in a run; it needs no base and no data."""
    reason = RefusalReason.POLICY if isinstance(error, PolicyError) else RefusalReason.BASE_MISMATCH
    refused = TaskAnswer(pb.CONTENT_PLAIT, encode_reply(Refusal(name, reason, str(error))), failure=str(error))

    def answer(task: ClientTask, body: bytes) -> TaskAnswer:
        del task, body
        return refused

    return TaskRunner(pb.Ready(base_fingerprint=run.base_fingerprint, device="declines"), answer, error)


@dataclass(frozen=True)
class Lost:
    """The connection is lost; the next attempt comes automatically."""

    cause: str
    wait_s: float


@dataclass(frozen=True)
class Prepared:
    """The base is ready and the node can work for a run."""

    run: OfferedRun
    runner: TaskRunner


@dataclass(frozen=True)
class Began:
    """Work on a task began."""

    task: ClientTask


@dataclass(frozen=True)
class Delivered:
    """An answer reached the server, which may not have kept it, or is no longer wanted."""

    task: ClientTask
    sent_bytes: int
    kept: bool
    failure: str


@dataclass(frozen=True)
class Reported:
    """What only the operator needs to know: an event for the journal, of a task if it has a name."""

    event: str
    text: str
    task_id: str = ""


def dropped(task: ClientTask, reason: str) -> Reported:
    """A task ended without an answer."""
    return Reported("dropped", f"{task.doing}: abandoned ({shown(reason)})", task.task_id)


@dataclass(frozen=True)
class Stopped:
    """The operator, or the system, wants the node to stop."""

    by_system: bool


FromServer = OfferedRun | ClientTask | pb.Withdraw | pb.Unfit | pb.Drain
"""What a server sends: its run when it admits the node, a task, perhaps not for the first time, or something else."""

Event = FromServer | Lost | Prepared | Began | Delivered | Reported | Stopped | PlaitError
"""What happens to a node; an error is a failure that a retry does not fix."""


def watched_thread(work: Callable[[], None], *, name: str, post: Callable[[Event], None]) -> threading.Thread:
    """A thread, not yet started."""

    def watched() -> None:
        try:
            work()
        except Exception as error:
            post(MachineError(f"the node's {name} failed unexpectedly: {failure(error)}; please report it"))

    return threading.Thread(target=watched, name=name, daemon=True)
