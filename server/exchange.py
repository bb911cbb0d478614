"""Tasks of one purpose and round on their way to nodes, and the answers as they come: what `NodesChannel` begins."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from plait.errors import Interrupted, MachineError
from plait.rounds.channel import Data, NoAnswer, Purpose, TaskParts
from plait.text import printable
from plait.transport.protocol import MESSAGE_TYPES
from plait.v1 import federation_pb2 as pb
from server.tasks import Task, TaskRegistry, TaskState

if TYPE_CHECKING:
    from server.nodes_channel import NodesChannel

_LONGEST_WAIT_S = 60.0


@dataclass(eq=False)
class NodesExchange:
    """A `plait.rounds.channel.Exchange` with nodes over gRPC."""

    channel: NodesChannel
    tasks: TaskRegistry
    purpose: Purpose
    group: str

    def __post_init__(self) -> None:
        self._waiting: dict[Task, int] = {}
        self._unsent: deque[int] = deque()
        self._settled: Iterator[Task] = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # A server that is told to end, or whose disk is full, goes on later: clients work on meanwhile.
        if not any(isinstance(each, Interrupted | KeyboardInterrupt | MachineError) for each in error):
            self.tasks.withdraw(self._waiting, "enough")
        self._waiting.clear()

    def send(self, node: int, task: TaskParts, group: str = "") -> None:
        """Send a task to a node."""
        given = self.channel.give(node, MESSAGE_TYPES[self.purpose], group or self.group, task)
        if given is None:
            self._unsent.append(node)
        else:
            self._waiting[given] = node

    def withdraw(self, node: int, reason: str) -> None:
        """Stop waiting for a node's answer."""
        given_up = [task for task, asked in self._waiting.items() if asked == node]
        self.tasks.withdraw(given_up, reason)
        for task in given_up:
            del self._waiting[task]

    def receive(self, timeout_s: float | None) -> tuple[int, Data | NoAnswer] | None:
        """Wait for the next answer."""
        if self._unsent:
            node = self._unsent.popleft()
            return node, NoAnswer(f"node {node} could not be sent its task")
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while self._waiting:
            if found := self._next():
                return found
            left_s = _LONGEST_WAIT_S if end is None else end - time.monotonic()
            if left_s <= 0:
                return None
            self.channel.wait(left_s)
        return None

    def _next(self) -> tuple[int, Data | NoAnswer] | None:
        """An available answer: those found in one pass over the tasks, one by one, then those of another pass."""
        for look_again in (True, False):
            for task in self._settled:
                node = self._waiting.pop(task, None)
                if node is not None:  # else it was withdrawn meanwhile
                    return node, self._answer(task, node)
            if look_again:
                self.channel.check()
                self._settled = iter(self.tasks.settled(self._waiting))
        return None

    def _answer(self, task: Task, node: int) -> Data | NoAnswer:
        if task.state is TaskState.FAILED:
            self.tasks.pulled(task, keep=False)
            reason = task.reason
        else:
            answer = self.tasks.read(task)
            failed = answer.content == pb.CONTENT_ERROR
            self.tasks.pulled(task, keep=not failed)
            if not failed:
                return answer.data
            reason = bytes(answer.data).decode(errors="replace")
        return NoAnswer(f"node {node} failed: {printable(reason)}")
