"""Where nodes and tasks meet: a task goes to its node once both are there, and is given up when the node stays away.

The thread of the ServerApp and that of the service both come here, so everything is done under one lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from plait.errors import DiskFullError
from plait.v1 import federation_pb2 as pb
from server.assignments import Assignment, Assignments
from server.inbox import Inbox
from server.sessions import Fitness, Session, Sessions


class Desk:
    """Sessions and assignments behind one lock.

    Args:
        inbox: where answers lie.
        max_nodes: so many nodes may be attached at a time.

    Attributes:
        sessions: who is here.
        assignments: what they are to do.
        failure: why the run cannot go on, once a full disk took no answer; None until then.
    """

    def __init__(self, inbox: Inbox, *, max_nodes: int) -> None:
        self._changed = threading.Condition()
        self.sessions = Sessions(max_nodes=max_nodes, changed=self._changed)
        self.assignments = Assignments(inbox, changed=self._changed)
        self.failure: DiskFullError | None = None
        self._seen = 0

    def fail(self, failure: DiskFullError) -> None:
        """Answers cannot be kept: the run is to stop, for no client is to blame."""
        with self._changed:
            self.failure = failure
            self.assignments.note()

    def send(self, assignment: Assignment) -> None:
        """Send a task to its node, if that is ready; else it is sent when it is."""
        with self._changed:
            node = self.sessions.named(assignment.node)
            if node is not None and node.session is not None and node.is_ready and assignment.is_open:
                node.session.put(pb.ToNode(work=assignment.work))

    def make_ready(self, session: Session, fitness: Fitness) -> None:
        """A node can work: it is sent what waits for it."""
        with self._changed:
            first = session.fitness is None
            session.fitness = fitness
            if first and session.is_open:
                for assignment in self.assignments.open_of(session.node.name):
                    session.put(pb.ToNode(work=assignment.work))
                self.assignments.note()

    def leave(self, session: Session) -> None:
        """A session is over; its tasks wait for the node to come back."""
        with self._changed:
            self.sessions.leave(session)
            self.assignments.note()

    def turn_out(self, session: Session, last: pb.ToNode, reason: str) -> int:
        """End a session with its last word, and fail the node's tasks; returns how many."""
        with self._changed:
            session.close(last)
            open_tasks = self.assignments.open_of(session.node.name)
            return sum(self.assignments.fail(assignment, reason) for assignment in open_tasks)

    def withdraw(self, message_ids: Iterable[str], reason: str) -> int:
        """Wait for these no more and tell their nodes so; returns how many were unanswered."""
        with self._changed:
            withdrawn = self.assignments.withdraw(message_ids, reason)
            for assignment in withdrawn:
                node = self.sessions.named(assignment.node)
                if node is not None and node.session is not None:
                    node.session.put(pb.ToNode(withdraw=pb.Withdraw(task_id=assignment.task_id, reason=reason)))
            return len(withdrawn)

    def give_up_absent(self, grace_s: float) -> list[Assignment]:
        """Fail the tasks of nodes that have been away, and waited for, longer than the grace."""
        now = time.monotonic()
        with self._changed:
            lost: list[Assignment] = []
            for assignment in self.assignments.all():
                node = self.sessions.named(assignment.node)
                if not assignment.is_open or (node is not None and node.session is not None):
                    continue
                since = max(assignment.given, node.left if node is not None else 0.0)
                if now - since > grace_s and self.assignments.fail(assignment, f"node {assignment.node} left"):
                    lost.append(assignment)
            return lost

    def wait(self, timeout_s: float) -> bool:
        """Block until something has changed since the last time; False if the time was over first. For one thread."""
        with self._changed:
            changed = self._changed.wait_for(lambda: self.assignments.events != self._seen, timeout_s)
            self._seen = self.assignments.events
            return changed
