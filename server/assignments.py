"""Tasks that were given out and what became of each: unanswered, answered on disk, or failed.

The one thing that the thread of the ServerApp and that of the service share, behind one lock. Knows nothing of Flower
and of connections.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from plait.transport.protocol import HEAD_BYTES
from plait.v1 import federation_pb2 as pb
from server.bodies import Bodies
from server.inbox import Inbox, group_and_type, task_id_of

DURABLE_TYPE = "train"
"""Answers of this message type are kept until another group's tasks go out, the others until they are pulled."""
_INLINE_BYTES = 16384
"""A task up to this size travels whole inside `Work`: a second call would cost more."""


class Standing(Enum):
    """What a node's word on a task is worth."""

    OPEN = auto()
    ANSWERED = auto()
    LATE = auto()
    UNKNOWN = auto()


@dataclass(eq=False)
class Assignment:
    """One task of one node.

    Attributes:
        message_id: Flower's name of it.
        node: name of the node.
        work: what the node is sent.
        given: when, on the monotonic clock.
        answered: when its answer was whole, on the same clock; None until then.
        failure: why there will be no answer; None while there may be.
        mismatches: how often an answer came whose SHA-256 was not what the node had announced.
    """

    message_id: str
    node: str
    work: pb.Work
    given: float = field(default_factory=time.monotonic)
    answered: float | None = None
    failure: str | None = None
    mismatches: int = 0

    @property
    def task_id(self) -> str:
        """What the node calls it."""
        return self.work.task_id

    @property
    def is_open(self) -> bool:
        """Whether an answer is still waited for."""
        return self.answered is None and self.failure is None


class Assignments:
    """All tasks that nobody has pulled the answers of yet.

    Args:
        inbox: where answers lie.
        changed: the lock over everything, told when something changes that the ServerApp may wait for.
    """

    def __init__(self, inbox: Inbox, *, changed: threading.Condition) -> None:
        self._inbox = inbox
        self._changed = changed
        self._bodies = Bodies()
        self._by_message: dict[str, Assignment] = {}
        self._by_node: dict[str, dict[str, Assignment]] = {}
        # How many tasks of a (node, group, type) have gone out; of each type's newest group only.
        self._given: Counter[tuple[str, str, str]] = Counter()
        self._groups: dict[str, str] = {}
        self._took: dict[str, list[float]] = {}
        self._past: set[tuple[str, str]] = set()
        self._events = 0

    @property
    def events(self) -> int:
        """Grows with every answer, loss and arrival."""
        return self._events

    def note(self) -> None:
        """Wake whoever waits for a change."""
        with self._changed:
            self._events += 1
            self._changed.notify_all()

    def give(
        self, node: str, *, message_id: str, message_type: str, group: str, content: int, head: bytes, body: bytes
    ) -> Assignment:
        """Note down a task for a node; one that it answered before a restart counts as answered.

        Args:
            node: name of the node.
            message_id: Flower's name of the task.
            message_type: Flower's type.
            group: Flower's group.
            content: what the bytes are, the number of a `Content`.
            head: the beginning of the bytes.
            body: the rest; tasks that share it share the object.

        Raises:
            ConfigError: names that make no file's name.
        """
        if len(head) > HEAD_BYTES:
            head, body = b"", head + body
        elif len(head) + len(body) <= _INLINE_BYTES:
            head, body = head + body, b""
        digest = self._digest(body) if body else b""
        with self._changed:
            self._turn(message_type, group)
            task_id = self._next_id(node, group, message_type)
            work = pb.Work(
                task_id=task_id,
                message_type=message_type,
                group_id=group,
                content=pb.Content.Name(content),
                head=head,
                body_bytes=len(body),
            )
            assignment = Assignment(message_id, node, work)
            self._by_message[message_id] = assignment
            self._by_node.setdefault(node, {})[task_id] = assignment
            if self._inbox.has(node, task_id):
                assignment.answered = assignment.given
                self.note()
            elif body:
                work.body_sha256 = digest
                self._bodies.hold(body, digest)
            return assignment

    def _digest(self, body: bytes) -> bytes:
        with self._changed:
            known = self._bodies.known(body)
        # Outside of the lock, for a large body takes long.
        return known or hashlib.sha256(body).digest()

    def _next_id(self, node: str, group: str, message_type: str) -> str:
        key = (node, group, message_type)
        while True:
            task_id = task_id_of(group, message_type, self._given[key])
            self._given[key] += 1
            # One that is still waited for has been given out before the group changed to another and back.
            if not self._is_known(node, task_id):
                return task_id

    def _turn(self, message_type: str, group: str) -> None:
        """Forget what belongs to the groups before, when the first task of another group goes out."""
        before = self._groups.get(message_type)
        if before == group:
            return
        self._groups[message_type] = group
        self._took[message_type] = []
        self._past.discard((group, message_type))
        if before is not None:
            self._past.add((before, message_type))
            for key in [key for key in self._given if key[1:] == (before, message_type)]:
                del self._given[key]
        self._inbox.remove_older(group, message_type, but=self._is_known)

    def _is_known(self, node: str, task_id: str) -> bool:
        return task_id in self._by_node.get(node, {})

    def find(self, node: str, task_id: str) -> tuple[Standing, Assignment | None]:
        """How a task of a node stands; with it the task, where it has not been pulled or withdrawn."""
        with self._changed:
            assignment = self._by_node.get(node, {}).get(task_id)
            if assignment is not None:
                if assignment.failure is not None:
                    return Standing.LATE, None
                return (Standing.OPEN if assignment.answered is None else Standing.ANSWERED), assignment
            parts = group_and_type(task_id)
            if parts is None or parts in self._past:
                return Standing.LATE, None
            if int(task_id.rpartition(".")[2]) < self._given[(node, *parts)]:
                # What was pulled is on disk as long as a node may still ask about it.
                return (Standing.ANSWERED if self._inbox.has(node, task_id) else Standing.LATE), None
            return Standing.UNKNOWN, None

    def open_of(self, node: str) -> list[Assignment]:
        """The unanswered tasks of a node, oldest first."""
        with self._changed:
            return [each for each in self._by_node.get(node, {}).values() if each.is_open]

    def all(self) -> list[Assignment]:
        """All that have not been pulled, oldest first."""
        with self._changed:
            return list(self._by_message.values())

    def body_for(self, node: str, digest: bytes) -> bytes | None:
        """The body with this SHA-256, if an unanswered task of the node has it."""
        with self._changed:
            if any(each.work.body_sha256 == digest for each in self.open_of(node)):
                return self._bodies.get(digest)
            return None

    @property
    def held_bytes(self) -> int:
        """Size of all bodies that are in memory."""
        with self._changed:
            return self._bodies.held_bytes

    def answer(self, assignment: Assignment) -> bool:
        """An answer is whole and on disk; False if nobody waits for it any more, and it is gone again."""
        with self._changed:
            if assignment.failure is not None:
                self._inbox.remove(assignment.node, assignment.task_id)
                return False
            assignment.answered = time.monotonic()
            if self._groups.get(assignment.work.message_type) == assignment.work.group_id:
                self._took[assignment.work.message_type].append(assignment.answered - assignment.given)
            self._release(assignment)
            self.note()
            return True

    def fail(self, assignment: Assignment, reason: str) -> bool:
        """There will be no answer; False if that was settled before."""
        with self._changed:
            if not assignment.is_open:
                return False
            assignment.failure = reason
            self._release(assignment)
            self._inbox.remove(assignment.node, assignment.task_id)
            self.note()
            return True

    def took_s(self, group: str, message_type: str) -> list[float]:
        """How long the tasks of this type that were answered took, if the group is the newest."""
        with self._changed:
            return list(self._took[message_type]) if self._groups.get(message_type) == group else []

    def settled(self, message_ids: Iterable[str]) -> list[Assignment]:
        """Those of the tasks that are answered or failed."""
        with self._changed:
            found = (self._by_message.get(message_id) for message_id in message_ids)
            return [each for each in found if each is not None and not each.is_open]

    def pulled(self, assignment: Assignment, *, keep: bool) -> None:
        """The ServerApp has the answer.

        Args:
            assignment: what it answers.
            keep: False if it is not to be found again after a restart.
        """
        with self._changed:
            self._forget(assignment)
            if not keep or assignment.work.message_type != DURABLE_TYPE:
                self._inbox.remove(assignment.node, assignment.task_id)

    def withdraw(self, message_ids: Iterable[str], reason: str) -> list[Assignment]:
        """Wait for these no more; returns those that were open."""
        with self._changed:
            withdrawn: list[Assignment] = []
            for message_id in message_ids:
                assignment = self._by_message.get(message_id)
                if assignment is None:
                    continue
                if assignment.is_open:
                    self._release(assignment)
                    assignment.failure = reason
                    withdrawn.append(assignment)
                self._forget(assignment)
                self._inbox.remove(assignment.node, assignment.task_id)
            return withdrawn

    def _forget(self, assignment: Assignment) -> None:
        self._by_message.pop(assignment.message_id, None)
        of_node = self._by_node.get(assignment.node, {})
        of_node.pop(assignment.task_id, None)
        if not of_node:
            self._by_node.pop(assignment.node, None)

    def _release(self, assignment: Assignment) -> None:
        if assignment.work.body_sha256:
            self._bodies.release(assignment.work.body_sha256)
