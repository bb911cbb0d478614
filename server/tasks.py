"""The tasks of a run: each is in one state, and one registry moves them all, behind one lock.

::

            node is ready       answer is whole
    give ─> PENDING ──────> DELIVERED ──────────> ANSWERED ─> pulled
               ^  │ session  │  │                     │
               └──┼── ends ──┘  │                     │
                  ├─────────────┴──> FAILED ─> pulled │
                  └─────────────┴──> WITHDRAWN <──────┘

A task is PENDING until its node can work, and again when the node's session ends. FAILED: no answer will come, and the
run gets the reason. WITHDRAWN: the run does not want the answer. A task whose answer is in the inbox from before a
restart goes from PENDING to ANSWERED at once: it has the same name, made of its round, type and number.

The run's thread and the service's event loop both call this.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from plait.errors import DiskFullError
from plait.rounds.channel import Purpose
from plait.transport.protocol import HEAD_BYTES, MESSAGE_TYPES
from plait.v1 import federation_pb2 as pb
from server.inbox import Bodies, Inbox, StoredAnswer, group_and_type, is_later, task_id_of
from server.sessions import Fitness, NodeSession, Sessions

DURABLE_TYPE = MESSAGE_TYPES[Purpose.TRAIN]
"""Answers of this message type are kept until another group's tasks go out, the others until they are pulled."""
_INLINE_BYTES = 16384
"""A task up to this size is sent whole inside `Work`: a second call would cost more."""


class TaskState(Enum):
    """The states of a task; the module docstring draws them."""

    PENDING = auto()
    DELIVERED = auto()
    ANSWERED = auto()
    FAILED = auto()
    WITHDRAWN = auto()


_OPEN = frozenset({TaskState.PENDING, TaskState.DELIVERED})
_SETTLED = frozenset({TaskState.ANSWERED, TaskState.FAILED, TaskState.WITHDRAWN})
_NEXT = {
    TaskState.PENDING: {TaskState.DELIVERED} | _SETTLED,
    TaskState.DELIVERED: {TaskState.PENDING, TaskState.DELIVERED} | _SETTLED,
    TaskState.ANSWERED: {TaskState.WITHDRAWN},
    TaskState.FAILED: {TaskState.WITHDRAWN},
    TaskState.WITHDRAWN: set[TaskState](),
}


@dataclass(eq=False)
class ServerTask:
    """One task of one node, changed by the registry alone; it has a session once it is delivered."""

    node: str
    work: pb.Work
    given: float = field(default_factory=time.monotonic)
    state: TaskState = TaskState.PENDING
    session: NodeSession | None = None
    reason: str = ""
    mismatches: int = 0

    @property
    def task_id(self) -> str:
        """The node's name for it."""
        return self.work.task_id

    @property
    def is_open(self) -> bool:
        """Whether an answer is still waited for."""
        return self.state in _OPEN

    def move(self, state: TaskState, *, session: NodeSession | None = None, reason: str = "") -> bool:
        """Enter a state; False, without a change, if no arrow leads there."""
        if state not in _NEXT[self.state]:
            return False
        self.state, self.session, self.reason = state, session, reason
        return True


class TaskRegistry:
    """All tasks whose answers have not been pulled yet; `failure` is the full disk that refused one."""

    def __init__(self, inbox: Inbox, sessions: Sessions) -> None:
        self._inbox = inbox
        self.sessions = sessions
        self._changed = sessions.changed
        self.failure: DiskFullError | None = None
        self._bodies = Bodies()
        self._all: dict[ServerTask, None] = {}
        self._by_node: dict[str, dict[str, ServerTask]] = {}
        self._unpulled: dict[ServerTask, None] = {}  # answered or failed
        # Number of tasks assigned per (node, group, type); of each type's newest group only.
        self._given: Counter[tuple[str, str, str]] = Counter()
        self._groups: dict[str, str] = {}
        self._past: set[tuple[str, str]] = set()
        self._events = self._seen = 0

    # Called by the run's thread.

    def give(self, node: str, *, message_type: str, group: str, head: bytes, body: bytes) -> ServerTask:
        """Assign a task to a node: sent at once if the node is ready, and not at all if its answer exists already."""
        if len(head) > HEAD_BYTES:
            head, body = b"", head + body
        elif len(head) + len(body) <= _INLINE_BYTES:
            head, body = head + body, b""
        digest = self._digest(body) if body else b""
        with self._changed:
            self._turn(message_type, group)
            task_id = self._next_id(node, group, message_type)
            work = pb.Work(task_id=task_id, message_type=message_type, group_id=group, head=head, body_bytes=len(body))
            task = self._by_node.setdefault(node, {})[work.task_id] = ServerTask(node, work)
            self._all[task] = None
            if self._inbox.has(node, task.task_id):
                task.move(TaskState.ANSWERED)
                self._unpulled[task] = None
                self._note()
                return task
            if body:
                work.body_sha256 = digest
                self._bodies.hold(body, digest)
            self._deliver(node)
            return task

    def settled(self, wanted: Container[ServerTask]) -> list[ServerTask]:
        """The tasks among these that are answered or failed, in that order of time."""
        with self._changed:
            # Thousands may be waited for, and few have come since the last look.
            return [task for task in self._unpulled if task in wanted]

    def pulled(self, task: ServerTask, *, keep: bool) -> None:
        """The run has the answer."""
        with self._changed:
            self._forget(task)
            if not keep or task.work.message_type != DURABLE_TYPE:
                self._inbox.remove(task.node, task.task_id)

    def read(self, task: ServerTask) -> StoredAnswer:
        """The answer to an answered task, from disk."""
        return self._inbox.read(task.node, task.task_id)

    def withdraw(self, tasks: Iterable[ServerTask], reason: str) -> None:
        """Stop waiting for these, and withdraw them from their nodes, which may work on them."""
        with self._changed:
            for task in tasks:
                if task not in self._all:
                    continue
                if task.is_open:
                    self._send_withdrawal(task, reason)
                self._settle(task, TaskState.WITHDRAWN, reason)
                self._forget(task)

    def wait(self, timeout_s: float) -> bool:
        """Block until something has changed since the last call; False on a time-out. For one thread."""
        with self._changed:
            changed = self._changed.wait_for(lambda: self._events != self._seen, timeout_s)
            self._seen = self._events
            return changed

    # Called by the event loop.

    def make_ready(self, session: NodeSession, fitness: Fitness) -> None:
        """A node can work: it is sent the tasks that are pending."""
        with self._changed:
            is_new = session.fitness is None
            session.fitness = fitness
            if is_new and session.is_open:
                self._deliver(session.node.name)
                self._note()

    def leave(self, session: NodeSession) -> None:
        """A session is over; its tasks wait for the node to return."""
        with self._changed:
            self.sessions.leave(session)
            self.let_go(session)

    def let_go(self, session: NodeSession) -> None:
        """A session's node works for another run, or left; its tasks wait for it to return."""
        with self._changed:
            for task in self._open_of(session.node.name):
                if task.session is session:
                    task.move(TaskState.PENDING)
            self._note()

    def expel(self, session: NodeSession, last: pb.ToNode, reason: str) -> int:
        """End a session with its last message, and fail the node's tasks; returns how many."""
        with self._changed:
            session.close(last)
            return sum(self.fail(task, reason) for task in self._open_of(session.node.name))

    def give_up_absent(self, grace_s: float) -> list[ServerTask]:
        """Fail the tasks of nodes that have been away longer than the grace period."""
        now = time.monotonic()
        with self._changed:
            lost: list[ServerTask] = []
            for task in self._all:
                node = self.sessions.named(task.node)
                if node is not None and node.session is not None:
                    continue
                since = max(task.given, node.left if node is not None else 0.0)
                if now - since > grace_s and self.fail(task, f"away for more than {grace_s:g} s"):
                    lost.append(task)
            return lost

    def find(self, node: str, task_id: str) -> tuple[TaskState | None, ServerTask | None]:
        """The state of a task, None if it has not been assigned; with it the task, unless it is forgotten."""
        with self._changed:
            task = self._by_node.get(node, {}).get(task_id)
            if task is not None:
                return task.state, task
            parts = group_and_type(task_id)
            if parts is None or parts in self._past:
                return TaskState.WITHDRAWN, None
            if int(task_id.rpartition(".")[2]) < self._given[(node, *parts)]:
                # Pulled answers stay on disk as long as a node may ask about them.
                return (TaskState.ANSWERED if self._inbox.has(node, task_id) else TaskState.WITHDRAWN), None
            return None, None

    def body_for(self, node: str, digest: bytes) -> bytes | None:
        """The body with this SHA-256, if an open task of the node has it."""
        with self._changed:
            if any(task.work.body_sha256 == digest for task in self._open_of(node)):
                return self._bodies.get(digest)
            return None

    def answer(self, task: ServerTask, session: NodeSession) -> bool:
        """A complete answer is on disk; False if it is no longer needed, and it is deleted."""
        with self._changed:
            if not task.is_open:
                if task.state is not TaskState.ANSWERED:
                    self._inbox.remove(task.node, task.task_id)
                return task.state is TaskState.ANSWERED
            if task.session is not session:  # the node's newer one stops working on it
                self._send_withdrawal(task, "answered", but=session)
            self._settle(task, TaskState.ANSWERED)
            return True

    def fail(self, task: ServerTask, reason: str) -> bool:
        """There will be no answer; False if the task was settled before."""
        with self._changed:
            was_open = task.is_open
            self._settle(task, TaskState.FAILED, reason)
            return was_open

    def stop(self, failure: DiskFullError) -> None:
        """Answers cannot be stored: the run must stop, and no client is to blame."""
        with self._changed:
            self.failure = failure
            self._note()

    # Called by both.

    def all(self) -> list[ServerTask]:
        """All tasks that have not been pulled, oldest first."""
        with self._changed:
            return list(self._all)

    @property
    def held_bytes(self) -> int:
        """Size of all bodies in memory."""
        with self._changed:
            return self._bodies.held_bytes

    def _note(self) -> None:
        self._events += 1
        self._changed.notify_all()

    def _deliver(self, name: str) -> None:
        node = self.sessions.named(name)
        if node is None or node.session is None or not node.is_ready:
            return
        for task in self._open_of(name):
            if task.session is not node.session and task.move(TaskState.DELIVERED, session=node.session):
                node.session.put(pb.ToNode(work=task.work))

    def _send_withdrawal(self, task: ServerTask, reason: str, *, but: NodeSession | None = None) -> None:
        node = self.sessions.named(task.node)
        if node is not None and node.session not in (None, but):
            node.session.put(pb.ToNode(withdraw=pb.Withdraw(task_id=task.task_id, reason=reason)))

    def _settle(self, task: ServerTask, state: TaskState, reason: str = "") -> None:
        was_open = task.is_open
        if not task.move(state, reason=reason):
            return
        if was_open and task.work.body_sha256:
            self._bodies.release(task.work.body_sha256)
        if state is not TaskState.ANSWERED:
            self._inbox.remove(task.node, task.task_id)
        if state is not TaskState.WITHDRAWN:
            self._unpulled[task] = None
        self._note()

    def _forget(self, task: ServerTask) -> None:
        self._all.pop(task, None)
        self._unpulled.pop(task, None)
        of_node = self._by_node.get(task.node, {})
        of_node.pop(task.task_id, None)
        if not of_node:
            self._by_node.pop(task.node, None)

    def _open_of(self, node: str) -> list[ServerTask]:
        return [task for task in self._by_node.get(node, {}).values() if task.is_open]

    def _digest(self, body: bytes) -> bytes:
        with self._changed:
            known = self._bodies.known(body)
        # Outside the lock, because a large body takes long.
        return known or hashlib.sha256(body).digest()

    def _next_id(self, node: str, group: str, message_type: str) -> str:
        key = (node, group, message_type)
        while True:
            task_id = task_id_of(group, message_type, self._given[key])
            self._given[key] += 1
            # A task still waited for was assigned before the group changed to another and back.
            if not self._is_known(node, task_id):
                return task_id

    def _turn(self, message_type: str, group: str) -> None:
        """Forget the groups before the first task of another, but for those that are open or later."""
        before = self._groups.get(message_type)
        if before == group:
            return
        self._groups[message_type] = group
        self._past.discard((group, message_type))
        if before is not None:
            if not is_later(before, than=group):
                self._past.add((before, message_type))
            open_tasks = {(task.node, task.work.group_id) for task in self._all}
            for key in [key for key in self._given if key[2] == message_type and key[1] != group]:
                if key[:2] not in open_tasks and not is_later(key[1], than=group):
                    del self._given[key]
        self._inbox.remove_older(group, message_type, but=self._is_known)

    def _is_known(self, node: str, task_id: str) -> bool:
        return task_id in self._by_node.get(node, {})
