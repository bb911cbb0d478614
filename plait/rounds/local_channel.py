"""A `Channel` to participants in this process, which work when their answers are requested.

At most one answer is in memory. Nothing is sent, but the bytes are those that a network would carry, so a simulation
counts the bytes of a deployment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, Self

from plait.abandon import Abandoned
from plait.errors import DiskFullError, PlaitError
from plait.files import disk_full_told
from plait.rounds.channel import Data, Liveness, NoAnswer, Purpose, TaskParts
from plait.rounds.clock import WallClock
from plait.rounds.stop import StopRequest


class Working(Protocol):
    """The interface of a participant (see `plait.rounds.participant.Participant`)."""

    def answer(self, task_bytes: bytes) -> bytes:
        """Do a task."""
        ...


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
        stop: stops the run between two clients.
    """

    def __init__(self, participant: Callable[[int], Working], count: int, *, stop: StopRequest | None = None) -> None:
        super().__init__(count, stop=stop)
        self._participant = participant

    def exchange(self, purpose: Purpose, group: str) -> LocalExchange:
        """Begin to send tasks."""
        del purpose, group
        return LocalExchange(self)

    def answer(self, node: int, task: bytes) -> bytes | NoAnswer:
        """Let a participant work.

        Raises:
            Interrupted: the run was asked to stop.
            DiskFullError: this machine's disk is full.
        """
        self.stop.check()
        with disk_full_told():
            try:
                return self._participant(node).answer(task)
            except (Abandoned, DiskFullError):
                raise
            except PlaitError as error:
                return NoAnswer(f"node {node} failed: {error}")


class LocalExchange:
    """A `plait.rounds.channel.Exchange` with participants in this process."""

    def __init__(self, channel: LocalChannel) -> None:
        self._channel = channel
        self._waiting: deque[tuple[int, TaskParts]] = deque()

    def __enter__(self) -> Self:
        return self

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
