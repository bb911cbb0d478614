"""A `Channel` to participants in this process, which work when their answers are requested.

At most one answer is in memory, or those of the clients that train at once. Nothing is sent, but the bytes are those
that a network would carry, so a simulation counts the bytes of a deployment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from plait.abandon import Abandoned
from plait.errors import DiskFullError, PlaitError
from plait.files import disk_full_told
from plait.rounds.channel import Data, Liveness, NoAnswer, Purpose, TaskParts
from plait.rounds.clock import WallClock
from plait.rounds.local_model import Trained, TrainJob
from plait.rounds.stop import StopRequest


class Working(Protocol):
    """The interface of a participant (see `plait.rounds.participant.Participant`)."""

    def begin(self, task_bytes: bytes) -> TrainJob | bytes:
        """Do a task up to its training; bytes are the complete answer."""
        ...

    def finish(self, job: TrainJob, trained: Trained | PlaitError) -> bytes:
        """The answer after the job."""
        ...


TrainJobs = Callable[[Sequence[TrainJob]], Sequence[Trained | PlaitError]]
"""Does several jobs; returns their results in the same order."""


@dataclass(frozen=True)
class _Begun:
    """A participant and the pending training for its answer."""

    participant: Working
    job: TrainJob


class FixedNodes:
    """What channels to clients of this machine have in common: all are there from the beginning, and none leaves.

    Args:
        count: of the clients; they are numbered from 0.
    """

    open_ended = False

    def __init__(self, count: int, *, stop: StopRequest | None) -> None:
        self._count = count
        self.stop = stop or StopRequest()
        self.clock = WallClock()

    def nodes(self, at_least: int) -> Sequence[int]:
        """All of them: no others can join."""
        del at_least
        return range(self._count)

    def wait(self, timeout_s: float) -> None:
        """No node joins or leaves."""

    def identity(self, node: int) -> None:
        """No node has a key."""

    def liveness(self, node: int) -> Liveness:
        """Always there."""
        del node
        return Liveness()

    def turn_away(self, node: int, reason: str, detail: str) -> None:
        """Its operator is the run's, and reads the ledger."""


class LocalChannel(FixedNodes):
    """Participants in this process.

    Args:
        participant: given a number, returns the participant; called for every task, and may raise a `PlaitError`.
        count: their number; they are numbered from 0.
        train: does the jobs of several at once; by default each job's model does its own.
        side_by_side: how many train at once, in the order of their tasks.
        stop: stops the run between two clients.
    """

    def __init__(
        self,
        participant: Callable[[int], Working],
        count: int,
        *,
        train: TrainJobs | None = None,
        side_by_side: int = 1,
        stop: StopRequest | None = None,
    ) -> None:
        super().__init__(count, stop=stop)
        self._participant = participant
        self._train = train or train_each
        self._side_by_side = side_by_side

    def exchange(self, purpose: Purpose, group: str) -> LocalExchange:
        """Begin to send tasks."""
        del group
        return LocalExchange(self, self._side_by_side if purpose is Purpose.TRAIN else 1)

    def answers(self, tasks: Sequence[tuple[int, bytes]]) -> list[bytes | NoAnswer]:
        """Let participants work one after the other, except for their training, which is done together.

        Raises:
            Interrupted: the run was asked to stop.
            DiskFullError: this machine's disk is full.
        """
        self.stop.check()
        with disk_full_told():
            begun = [self._begin(node, task) for node, task in tasks]
            jobs = [each.job for each in begun if isinstance(each, _Begun)]
            trained = iter(self._train(jobs) if jobs else ())
            return [
                each.participant.finish(each.job, next(trained)) if isinstance(each, _Begun) else each for each in begun
            ]

    def _begin(self, node: int, task: bytes) -> _Begun | bytes | NoAnswer:
        try:
            participant = self._participant(node)
            job = participant.begin(task)
        except (Abandoned, DiskFullError):
            raise
        except PlaitError as error:
            return NoAnswer(f"node {node} failed: {error}")
        return job if isinstance(job, bytes) else _Begun(participant, job)


def train_each(jobs: Sequence[TrainJob]) -> list[Trained | PlaitError]:
    """Do jobs one after the other.

    Raises:
        Abandoned: the result is no longer needed.
        DiskFullError: this machine's disk is full.
    """
    return [_trained(job) for job in jobs]


def _trained(job: TrainJob) -> Trained | PlaitError:
    try:
        return job.model.train(job)
    except (Abandoned, DiskFullError):
        raise
    except PlaitError as error:
        return error


class LocalExchange:
    """A `plait.rounds.channel.Exchange` with participants in this process."""

    def __init__(self, channel: LocalChannel, at_once: int) -> None:
        self._channel = channel
        self._at_once = at_once
        self._waiting: deque[tuple[int, TaskParts]] = deque()
        self._answered: deque[tuple[int, bytes | NoAnswer]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.clear()
        self._answered.clear()

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
        if not self._answered and self._waiting:
            chosen = [self._waiting.popleft() for _ in range(min(self._at_once, len(self._waiting)))]
            answers = self._channel.answers([(node, b"".join(parts)) for node, parts in chosen])
            self._answered.extend((node, answer) for (node, _), answer in zip(chosen, answers, strict=True))
        return self._answered.popleft() if self._answered else None
