"""plait's `Channel` over any Flower `Grid`: plait's own over gRPC, a SuperLink, or Flower's simulation."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

from flwr.serverapp import Grid

from plait.errors import Interrupted, MachineError, PeerError
from plait.flower.blob import data_of, to_content
from plait.rounds.channel import Data, Identity, Liveness, NoAnswer, Purpose, TaskParts
from plait.rounds.clock import WallClock
from plait.rounds.stop import StopRequest

MASK_TYPE = "query.mask"
"""Of its own, so that a question about data and one of a masked sum do not displace each other."""
_MESSAGE_TYPES = {
    Purpose.DESCRIBE: "query",
    Purpose.TRAIN: "train",
    Purpose.EVALUATE: "evaluate",
    Purpose.MASK: MASK_TYPE,
}
_SHORTEST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0


@runtime_checkable
class AttendedGrid(Protocol):
    """Features of plait's own grid over gRPC beyond Flower's `Grid`: it knows its nodes, and needs no polling."""

    def wait(self, timeout_s: float) -> None:
        """Wait until an answer or a node has come or gone."""
        ...

    def withdraw(self, message_ids: Sequence[str], reason: str) -> None:
        """Give up tasks: their nodes are told, and answers to them are refused as late."""
        ...

    def node_name(self, node_id: int) -> str | None:
        """The node's proven name; None if it is no longer known."""
        ...

    def public_key(self, node_id: int) -> bytes | None:
        """The node's key; None on an insecure connection."""
        ...

    def liveness(self, node_id: int) -> tuple[float, float] | None:
        """When it connected, and the seconds since its last progress; None while it is away."""
        ...


class GridChannel:
    """Sends tasks as Flower messages and pulls replies one at a time, so that at most one reply is in memory.

    Args:
        grid: Flower's grid.
        stop: stops the run while it waits.
    """

    open_ended = True

    def __init__(self, grid: Grid, stop: StopRequest | None = None) -> None:
        self._grid = grid
        self._stop = stop or StopRequest()
        self.clock = WallClock()

    def nodes(self, at_least: int) -> Sequence[int]:
        """All connected nodes, once there are enough."""
        pause_s = _SHORTEST_PAUSE_S
        while len(nodes := sorted(self._grid.get_node_ids())) < at_least:
            self.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return nodes

    def wait(self, timeout_s: float) -> None:
        """Wait until something may have changed.

        Raises:
            Interrupted: the run was asked to stop.
        """
        self._stop.check()
        if isinstance(self._grid, AttendedGrid):
            self._grid.wait(timeout_s)
        else:
            time.sleep(timeout_s)

    def identity(self, node: int) -> Identity | None:
        """A node's proven identity; None if the grid leaves that to others.

        Raises:
            PeerError: the grid would know, but the node is gone: its own claims are not trusted.
        """
        if not isinstance(self._grid, AttendedGrid):
            return None
        name = self._grid.node_name(node)
        if name is None:
            raise PeerError(f"node {node} has left, expected one that is connected")
        return Identity(name, self._grid.public_key(node) or b"")

    def liveness(self, node: int) -> Liveness:
        """Whether a node is still working; the grid gives up nodes that are away."""
        found = self._grid.liveness(node) if isinstance(self._grid, AttendedGrid) else None
        return Liveness() if found is None else Liveness(*found)

    def exchange(self, purpose: Purpose, group: str) -> GridExchange:
        """Begin to send tasks."""
        return GridExchange(self, self._grid, purpose, group)


@dataclass(eq=False)
class GridExchange:
    """A `plait.rounds.channel.Exchange` over a grid."""

    channel: GridChannel
    grid: Grid
    purpose: Purpose
    group: str

    def __post_init__(self) -> None:
        self._waiting: deque[tuple[str, int]] = deque()
        self._unsent: deque[int] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # A server that is told to end, or whose disk is full, goes on later: clients work on meanwhile.
        goes_on = any(isinstance(each, (Interrupted, KeyboardInterrupt, MachineError)) for each in error)
        if self._waiting and not goes_on and isinstance(self.grid, AttendedGrid):
            self.grid.withdraw([message_id for message_id, _ in self._waiting], "enough")
        self._waiting.clear()

    def send(self, node: int, task: TaskParts, group: str = "") -> None:
        """Send a task to a node."""
        # One at a time: for a message that it could not send, a grid may leave the id empty or out.
        message = self.grid.create_message(to_content(*task), _MESSAGE_TYPES[self.purpose], node, group or self.group)
        message_id = next(iter(self.grid.push_messages([message])), None)
        if message_id:
            self._waiting.append((message_id, node))
        else:
            self._unsent.append(node)

    def withdraw(self, node: int, reason: str) -> None:
        """Stop waiting for a node's answer."""
        given_up = [message_id for message_id, asked in self._waiting if asked == node]
        if isinstance(self.grid, AttendedGrid):
            self.grid.withdraw(given_up, reason)
        self._waiting = deque(entry for entry in self._waiting if entry[0] not in given_up)

    def receive(self, timeout_s: float | None) -> tuple[int, Data | NoAnswer] | None:
        """Wait for the next answer."""
        if self._unsent:
            node = self._unsent.popleft()
            return node, NoAnswer(f"node {node} could not be sent its task")
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = _SHORTEST_PAUSE_S
        while self._waiting:
            for _ in range(len(self._waiting)):
                message_id, node = self._waiting[0]
                reply = next(iter(self.grid.pull_messages([message_id])), None)
                if reply is None:
                    self._waiting.rotate(-1)
                    continue
                self._waiting.popleft()
                try:
                    return node, data_of(reply)
                except PeerError as error:
                    return node, NoAnswer(str(error))
            if deadline is not None:
                pause_s = min(pause_s, deadline - time.monotonic())
                if pause_s <= 0:
                    return None
            self.channel.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return None
