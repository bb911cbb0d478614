"""What happens to a node, told to its main loop by the threads that find out."""

from __future__ import annotations

from dataclasses import dataclass

from client.task import Task
from client.workplace import Capacity, Run
from plait.errors import PlaitError


@dataclass(frozen=True)
class Welcomed:
    """The server took the node in for a run."""

    run: Run


@dataclass(frozen=True)
class Offered:
    """The server sent a task, perhaps not for the first time."""

    task: Task


@dataclass(frozen=True)
class Withdrawn:
    """Nobody waits for a task any more."""

    task_id: str
    reason: str


@dataclass(frozen=True)
class Draining:
    """The server is about to go, for good or not."""

    finished: bool


@dataclass(frozen=True)
class Lost:
    """There is no connection; the next attempt comes by itself."""

    cause: str
    wait_s: float


@dataclass(frozen=True)
class Prepared:
    """The base is there and the node can work."""

    capacity: Capacity


@dataclass(frozen=True)
class Failed:
    """Something that trying again does not mend."""

    error: PlaitError


@dataclass(frozen=True)
class Began:
    """Work on a task began."""

    task: Task


@dataclass(frozen=True)
class Delivered:
    """An answer reached the server, or nobody wanted it any more.

    Attributes:
        task: what was answered.
        sent_bytes: size of the answer.
        kept: whether the server kept it.
        failure: why it is not what was asked for; empty if it is.
    """

    task: Task
    sent_bytes: int
    kept: bool
    failure: str


@dataclass(frozen=True)
class Shelved:
    """An answer waits until the server, which was restarted, asks for it again."""

    task: Task


@dataclass(frozen=True)
class Dropped:
    """A task ended without an answer."""

    task: Task
    reason: str


@dataclass(frozen=True)
class Trouble:
    """Something went wrong that will be tried again."""

    cause: str


@dataclass(frozen=True)
class Stopped:
    """The operator, or the system, wants the node to stop."""

    by_system: bool


Event = (
    Welcomed
    | Offered
    | Withdrawn
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
