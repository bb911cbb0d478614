"""The seam between the round loop and whatever carries its messages (in process, gRPC, Flower's engine).

The loop sees node numbers and bytes; a driver never looks into the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self, TypeAlias


class Purpose(StrEnum):
    """What a task asks of a client."""

    DESCRIBE = "describe"
    TRAIN = "train"
    EVALUATE = "evaluate"


Data: TypeAlias = "bytes | memoryview"
"""An answer's bytes; a view where they lie in a file that is mapped into memory."""

TaskParts: TypeAlias = tuple[bytes, bytes]
"""A task's own bytes and those that many tasks share (see `plait.wire.messages.encode_task`)."""


@dataclass(frozen=True)
class NoAnswer:
    """Why there will be no answer from a node, in one line."""

    detail: str


@dataclass(frozen=True)
class Identity:
    """Who a node proved to be.

    Attributes:
        name: the name that its key was provisioned for.
        public_key: its Ed25519 key, 32 bytes.
    """

    name: str
    public_key: bytes


@dataclass(frozen=True)
class Presence:
    """How a node is there.

    Attributes:
        since: when it attached, on a clock of the driver's; another number once it has come back.
        quiet_s: seconds since it last showed a sign of work: a word on its progress, a byte that travelled.
    """

    since: float = 0.0
    quiet_s: float = 0.0


class Exchange(Protocol):
    """Tasks of one purpose and round on their way, and the answers to them.

    Leaving it (``with``) withdraws what is still unanswered: such answers no longer count.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def send(self, node: int, task: TaskParts) -> None:
        """Send a task; a node that was sent one before is sent the next one after it answered."""
        ...

    def withdraw(self, node: int, reason: str) -> None:
        """Wait for a node's answer no more.

        Args:
            node: it was sent a task, and has not answered.
            reason: one word for its log.
        """
        ...

    def receive(self, timeout_s: float | None) -> tuple[int, Data | NoAnswer] | None:
        """Wait for the next answer.

        Args:
            timeout_s: None waits for as long as it takes.

        Returns:
            (node, its answer), or None if none came in time or nobody is to answer any more.
        """
        ...


class Channel(Protocol):
    """Carries tasks to nodes and their answers back."""

    @property
    def open_ended(self) -> bool:
        """Whether nodes come and go, so that one that is missing or unfit may yet be replaced by another."""
        ...

    def nodes(self, at_least: int) -> Sequence[int]:
        """The nodes that can be reached now; waits until there are `at_least` so many."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Wait until nodes may have come or gone, `timeout_s` at most."""
        ...

    def identity(self, node: int) -> Identity | None:
        """Who the node proved to be; None where the driver leaves proof to others."""
        ...

    def presence(self, node: int) -> Presence:
        """How a node is there; always the same where the driver cannot tell."""
        ...

    def exchange(self, purpose: Purpose, group: str) -> Exchange:
        """Begin to send tasks.

        Args:
            purpose: what the tasks ask for.
            group: the round, for drivers that group messages.
        """
        ...
