"""The events of a node, sent to its main loop by the other threads."""

from __future__ import annotations

from dataclasses import dataclass

from client.runner import Capacity, Run
from client.task import Task
from plait.errors import PlaitError


@dataclass(frozen=True)
class Welcomed:
    """The server admitted the node to a run."""

    run: Run


@dataclass(frozen=True)
class Offered:
    """The server sent a task, perhaps not for the first time."""

    task: Task


@dataclass(frozen=True)
class Withdrawn:
    """A task is no longer needed."""

    task_id: str
    reason: str


@dataclass(frozen=True)
class TurnedAway:
    """The node has described itself, and the run has no use for it."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Draining:
    """The server is going down, for good or not."""

    finished: bool


@dataclass(frozen=True)
class Lost:
    """The connection is lost; the next attempt comes automatically."""

    cause: str
    wait_s: float


@dataclass(frozen=True)
class Prepared:
    """The base is ready and the node can work for a run."""

    run: Run
    capacity: Capacity


@dataclass(frozen=True)
class Failed:
    """A failure that a retry does not fix."""

    error: PlaitError


@dataclass(frozen=True)
class Began:
    """Work on a task began."""

    task: Task


@dataclass(frozen=True)
class Delivered:
    """An answer reached the server, or is no longer wanted.

    Attributes:
        kept: whether the server kept it.
        failure: why the task failed, if it did; else empty.
    """

    task: Task
    sent_bytes: int
    kept: bool
    failure: str


@dataclass(frozen=True)
class Shelved:
    """An answer waits until the restarted server asks for it again."""

    task: Task


@dataclass(frozen=True)
class Dropped:
    """A task ended without an answer."""

    task: Task
    reason: str


@dataclass(frozen=True)
class Trouble:
    """A failure that will be retried."""

    cause: str


@dataclass(frozen=True)
class Stopped:
    """The operator, or the system, wants the node to stop."""

    by_system: bool


Event = (
    Welcomed
    | Offered
    | Withdrawn
    | TurnedAway
    | Draining
    | Lost
    | Prepared
    | Failed
    | Began
    | Delivered
    | Shelved
    | Dropped
    | Trouble
    | Stopped
)
