"""The only seam between the round loop and what carries its messages: in process, gRPC, Flower's engine.

The loop sees node numbers and bytes, which no driver parses. A channel brings its clock along, the machine's own or the
virtual one of a simulated fleet, so that deadlines and times mean the same over every driver.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, Self, TypeAlias

from pydantic import JsonValue

from plait.errors import Abandoned, DiskFullError, PlaitError, RunInterrupted
from plait.ledger.events import Event
from plait.system.files import disk_full_errors

IN_PROGRESS = "in_progress"
"""Under what a run that goes on while rounds end remembers tasks in progress, by client (`RunState.remembered`)."""


class Clock:
    """The time of a run: the machine's, by which every connected client is available, or that of a simulated fleet."""

    is_virtual = False

    def now(self) -> float:
        """Seconds since a fixed moment; since the start of the run on a virtual clock."""
        return time.monotonic()

    def available(self, nodes: Sequence[int], at_least: int) -> Sequence[int]:
        """Those of the nodes that are on now; a virtual clock goes on until there are enough."""
        del at_least
        return nodes

    def ended(self, number: int, clients: Mapping[int, str]) -> Sequence[Event]:
        """Events of round `number` for simulated devices' tasks that ended since the last call; `clients` by node."""
        del number, clients
        return ()

    def in_progress(self) -> Mapping[int, Mapping[str, JsonValue]]:
        """What to remember of training tasks that simulated devices have not ended, by node; `began_s` is in each."""
        return {}


class Purpose(StrEnum):
    """The purpose of a task."""

    DESCRIBE = "describe"
    TRAIN = "train"
    EVALUATE = "evaluate"
    JUDGE = "judge"
    MASK = "mask"


Data: TypeAlias = bytes | memoryview
"""An answer's bytes; a view if they are in a memory-mapped file."""

TaskParts: TypeAlias = tuple[bytes, bytes]
"""A task's own bytes, and the bytes that many tasks share (see `plait.wire.messages.encode_task`)."""


_ATTEMPT, _STAGE = "~", "."
_ATTEMPT_DIGITS = 16


def group_of(number: int, attempt: bytes = b"", stage: str = "") -> str:
    """The group of a round's messages; an answer to one attempt or stage of a masked sum does not answer another."""
    if not attempt:
        return str(number)
    return f"{number}{_ATTEMPT}{attempt.hex()[:_ATTEMPT_DIGITS]}" + (f"{_STAGE}{stage}" if stage else "")


def round_and_attempt(group: str) -> tuple[str, str]:
    """The round and the attempt of a group; the second is empty for a group without one."""
    number, _, attempt = group.partition(_ATTEMPT)
    return number, attempt.partition(_STAGE)[0]


@dataclass(frozen=True)
class NoAnswer:
    """Why a node will not answer, in one line."""

    detail: str


@dataclass(frozen=True)
class Identity:
    """The proven identity of a node."""

    name: str
    public_key: bytes


@dataclass(frozen=True)
class Liveness:
    """Whether a node is still working.

    Attributes:
        since: when it connected, on the driver's clock; another number after a reconnect.
        idle_s: seconds since its last progress: a report, or a transferred byte.
    """

    since: float = 0.0
    idle_s: float = 0.0


class Exchange(Protocol):
    """Tasks of one purpose and round in progress, and their answers.

    Leaving it (``with``) withdraws unanswered tasks: late answers no longer count.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def send(self, node: int, task: TaskParts, group: str = "") -> None:
        """Send a task, of the exchange's group or another; a node with an unanswered one gets it after its answer."""
        ...

    def withdraw(self, node: int, reason: str) -> None:
        """Stop waiting for a node's answer."""
        ...

    def receive(self, timeout_s: float | None) -> tuple[int, Data | NoAnswer] | None:
        """The next node's answer; None if none came in time or no answers are outstanding."""
        ...


class Channel(Protocol):
    """Carries tasks to nodes and their answers back.

    Attributes:
        open_ended: whether nodes come and go, so that a missing or unfit one may yet be replaced by another.
        clock: by which tasks take time.
    """

    open_ended: bool = False
    clock: Clock

    def nodes(self, at_least: int) -> Sequence[int]:
        """The reachable nodes; waits until there are at least `at_least`."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Wait until nodes may have come or gone, at most `timeout_s`; not at all where none does."""

    def identity(self, node: int) -> Identity | None:
        """The node's proven identity; None if the driver leaves proof to others."""
        del node
        return None

    def liveness(self, node: int) -> Liveness:
        """Whether the node is still working; constant if the driver cannot tell."""
        del node
        return Liveness()

    def turn_away(self, node: int, reason: str, detail: str) -> None:
        """Inform a node, if the driver can, that it cannot take part as it has described itself."""

    def exchange(self, purpose: Purpose, group: str) -> Exchange:
        """Begin to send tasks."""
        ...


class Answering(Protocol):
    """What answers tasks at the other end; in a run, a `plait.rounds.participant.Participant`."""

    def answer(self, task_bytes: bytes) -> bytes:
        """Do one task."""
        ...


@dataclass
class StopRequest:
    """A request to a run in progress.

    Attributes:
        ending: why the run is to end after its current round as if that were its last; empty if it is not to.
        heeded: whether `asked` is checked from time to time; not while libraries or a base are loaded.
    """

    asked: bool = False
    ending: str = ""
    heeded: bool = False

    def check(self) -> None:
        """Go on, unless the run is to stop."""
        if self.asked:
            raise RunInterrupted("stopped by the user; everything received so far is saved")


class FixedNodes(Channel):
    """What channels to clients of this machine have in common: all are there from the beginning, and none leaves."""

    def __init__(self, count: int, *, stop: StopRequest | None) -> None:
        self._count = count
        self.stop = stop or StopRequest()
        self.clock = Clock()

    def nodes(self, at_least: int) -> Sequence[int]:
        """All of them: no others can join."""
        del at_least
        return range(self._count)


class LocalChannel(FixedNodes):
    """Participants in this process, each made from its number for every task; making one may raise a `PlaitError`."""

    def __init__(self, participant: Callable[[int], Answering], count: int, *, stop: StopRequest | None = None) -> None:
        super().__init__(count, stop=stop)
        self._participant = participant

    def exchange(self, purpose: Purpose, group: str) -> "LocalExchange":
        """Begin to send tasks."""
        del purpose, group
        return LocalExchange(self)

    def answer(self, node: int, task: bytes) -> bytes | NoAnswer:
        """Let a participant work."""
        self.stop.check()
        with disk_full_errors():
            try:
                return self._participant(node).answer(task)
            except (Abandoned, DiskFullError):
                raise
            except PlaitError as error:
                return NoAnswer(f"node {node} failed: {error}")


class LocalExchange(Exchange):
    """An exchange with participants in this process."""

    def __init__(self, channel: LocalChannel) -> None:
        self._channel = channel
        self._waiting: deque[tuple[int, TaskParts]] = deque()

    def __exit__(self, *_: object) -> None:
        self._waiting.clear()

    def send(self, node: int, task: TaskParts, group: str = "") -> None:
        """Keep a task until its answer is requested."""
        del group
        self._waiting.append((node, task))

    def withdraw(self, node: int, reason: str) -> None:
        """Stop waiting for a node's answer."""
        del reason
        self._waiting = deque(entry for entry in self._waiting if entry[0] != node)

    def receive(self, timeout_s: float | None) -> tuple[int, Data | NoAnswer] | None:
        """The next answer, in the order of the tasks; never waits."""
        del timeout_s
        if not self._waiting:
            return None
        node, parts = self._waiting.popleft()
        return node, self._channel.answer(node, b"".join(parts))


_MINUTE_S = 60.0
_STAGE_CLIENT_S = 0.1
_STAGE_BYTES_PER_S = 1 << 14
_ALL_BYTES_PER_S = 1 << 20


@dataclass(frozen=True)
class Patience:
    """Limits, in seconds.

    Attributes:
        stage_s: the same for a stage of a masked sum without training; and the least that it may take.
        slow_factor: once half of those asked have answered, the others have this multiple of their median time;
            infinite where they are not waited for.
        slow_s: they always have at least this long.
        gathering_s: once the run has begun, the total time to wait for missing clients between two rounds.
        again_s: a client that was given up, or failed, is asked again after this long.
    """

    silent_s: float = 5 * _MINUTE_S
    overdue_s: float = _MINUTE_S
    stage_s: float = 2 * _MINUTE_S
    slow_factor: float = 10.0
    slow_s: float = 15 * _MINUTE_S
    gathering_s: float = 10 * _MINUTE_S
    return_s: float = _MINUTE_S
    again_s: float = 10 * _MINUTE_S

    def is_silent(self, *, asked_s: float, idle_s: float) -> bool:
        """Whether a client has shown no progress for too long."""
        return min(asked_s, idle_s) > self.silent_s

    def may_be_silent_s(self, *, idle_s: float) -> float:
        """How much longer an overdue client may show no progress."""
        return min(self.overdue_s, self.silent_s) - idle_s

    def is_slow(self, *, asked_s: float, took_s: Sequence[float], asked: int) -> bool:
        """Whether a client takes far longer than the others."""
        # The median last: thousands may be waited for, and thousands have answered.
        if math.isinf(self.slow_factor) or 2 * len(took_s) < asked or asked_s <= self.slow_s:
            return False
        return asked_s > self.slow_factor * statistics.median_low(took_s)

    @property
    def for_stages(self) -> "Patience":
        """For the stages of a masked sum."""
        return replace(self, silent_s=min(self.silent_s, self.stage_s))

    def most_stage_s(self, clients: int, *, task_bytes: int, all_bytes: int) -> float:
        """How long a stage of a masked sum may take, whatever progress a client reports.

        A client computes some keys, shares or signatures for each other, a millisecond's work on a small processor of
        its own, and is sent a message; so it has far longer than that, and than a slow line takes.

        Args:
            task_bytes: of the largest message to one of them.
        """
        sending_s = task_bytes / _STAGE_BYTES_PER_S + all_bytes / _ALL_BYTES_PER_S
        return self.stage_s + _STAGE_CLIENT_S * clients + sending_s

    def cool_down_s(self, waited_s: float) -> float:
        """How long a client that was given up is not asked: it may cost a run at most a fifth of its time."""
        return max(self.again_s, 4 * waited_s)
