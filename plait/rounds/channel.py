"""The interface between the round loop and the driver of its messages (in process, gRPC, Flower's engine).

The loop sees node numbers and bytes; a driver never parses the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self, TypeAlias

from plait.rounds.clock import Clock


class Purpose(StrEnum):
    """The purpose of a task."""

    DESCRIBE = "describe"
    TRAIN = "train"
    EVALUATE = "evaluate"
    MASK = "mask"


Data: TypeAlias = "bytes | memoryview"
"""An answer's bytes; a view if they are in a memory-mapped file."""

TaskParts: TypeAlias = tuple[bytes, bytes]
"""A task's own bytes, and the bytes that many tasks share (see `plait.wire.messages.encode_task`)."""


_ATTEMPT, _STAGE = "~", "."
_ATTEMPT_DIGITS = 16


def group_of(number: int, attempt: bytes = b"", stage: str = "") -> str:
    """The group of a round's messages; an answer to one attempt or stage of a masked sum does not answer another.

    Args:
        attempt: at a masked sum; empty for none.
        stage: of the attempt, if its messages surround the round's tasks.
    """
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
    """The proven identity of a node.

    Attributes:
        name: the name for which its key was provisioned.
        public_key: its Ed25519 key, 32 bytes.
    """

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

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def send(self, node: int, task: TaskParts, group: str = "") -> None:
        """Send a task; a node with an unanswered task gets the next one after its answer.

        Args:
            group: of its round, if that is another than the exchange's.
        """
        ...

    def withdraw(self, node: int, reason: str) -> None:
        """Stop waiting for a node's answer."""
        ...

    def receive(self, timeout_s: float | None) -> tuple[int, Data | NoAnswer] | None:
        """Wait for the next answer.

        Args:
            timeout_s: None means no limit.

        Returns:
            (node, its answer), or None if none came in time or no answers are outstanding.
        """
        ...


class Channel(Protocol):
    """Carries tasks to nodes and their answers back."""

    @property
    def open_ended(self) -> bool:
        """Whether nodes come and go, so that a missing or unfit one may yet be replaced by another."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock by which tasks take time."""
        ...

    def nodes(self, at_least: int) -> Sequence[int]:
        """The reachable nodes; waits until there are at least `at_least`."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Wait until nodes may have come or gone, at most `timeout_s`."""
        ...

    def identity(self, node: int) -> Identity | None:
        """The node's proven identity; None if the driver leaves proof to others."""
        ...

    def liveness(self, node: int) -> Liveness:
        """Whether the node is still working; constant if the driver cannot tell."""
        ...

    def turn_away(self, node: int, reason: str, detail: str) -> None:
        """Tell a node, if the driver can, that it cannot take part as it has described itself."""
        ...

    def exchange(self, purpose: Purpose, group: str) -> Exchange:
        """Begin to send tasks."""
        ...


class Answering(Protocol):
    """What answers tasks at the other end; in a run, a `plait.rounds.participant.Participant`."""

    def answer(self, task_bytes: bytes) -> bytes:
        """Do one task."""
        ...
