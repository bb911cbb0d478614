"""plait's `Channel` over any Flower `Grid`: plait's own over gRPC, a SuperLink, or Flower's simulation."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

from flwr.serverapp import Grid

from plait.errors import Interrupted, MachineError, PeerError
from plait.flower.blob import data_of, to_content
from plait.flower.grid import ByteGrid, GivenTask
from plait.rounds.channel import Data, Identity, Liveness, NoAnswer, Purpose, TaskParts
from plait.rounds.clock import WallClock
from plait.rounds.stop import StopRequest
from plait.text import printable

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

    def turn_away(self, node_id: int, reason: str, detail: str) -> None:
        """Tell a node that it cannot take part."""
        ...

    def liveness(self, node_id: int) -> tuple[float, float] | None:
        """When it connected, and the seconds since its last progress; None while it is away."""
        ...


class GridChannel:
    """Sends tasks to the nodes of a grid and pulls answers one at a time, so that at most one is in memory.

    Args:
        grid: Flower's grid.
        stop: stops the run while it waits.
    """

    open_ended = True

    def __init__(self, grid: Grid, stop: StopRequest | None = None) -> None:
        self._grid = grid
        # Asked once: to compare a protocol takes longer than most of what is asked of it.
        self._attended = grid if isinstance(grid, AttendedGrid) else None
        self._post = _TaskPost(grid) if isinstance(grid, ByteGrid) else _MessagePost(grid)
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
        if self._attended:
            self._attended.wait(timeout_s)
        else:
            time.sleep(timeout_s)

    def identity(self, node: int) -> Identity | None:
        """A node's proven identity; None if the grid leaves that to others.

        Raises:
            PeerError: the grid would know, but the node is gone: its own claims are not trusted.
        """
        if self._attended is None:
            return None
        name = self._attended.node_name(node)
        if name is None:
            raise PeerError(f"node {node} has left, expected one that is connected")
        return Identity(name, self._attended.public_key(node) or b"")

    def liveness(self, node: int) -> Liveness:
        """Whether a node is still working; the grid gives up nodes that are away."""
        found = self._attended.liveness(node) if self._attended else None
        return Liveness() if found is None else Liveness(*found)

    def turn_away(self, node: int, reason: str, detail: str) -> None:
        """Tell a node why it cannot take part, where the grid is plait's own."""
        if self._attended:
            self._attended.turn_away(node, reason, detail)

    def exchange(self, purpose: Purpose, group: str) -> GridExchange:
        """Begin to send tasks."""
        return GridExchange(self, self._post, self._attended, purpose, group)


class _Post(Protocol):
    """Sends tasks and fetches answers."""

    def send(self, node: int, message_type: str, task: TaskParts, group: str) -> str:
        """Send a task; returns its name, empty if it could not be sent."""
        ...

    def fetch(self, waiting: Mapping[str, int]) -> Iterator[tuple[str, Data | NoAnswer]]:
        """The answers that are there to these tasks (name: node), each read when the iterator reaches it."""
        ...


@dataclass(frozen=True)
class _MessagePost:
    """Over any grid, as Flower's messages."""

    grid: Grid

    def send(self, node: int, message_type: str, task: TaskParts, group: str) -> str:
        # One at a time: for a message that it could not send, a grid may leave the id empty or out.
        message = self.grid.create_message(to_content(*task), message_type, node, group)
        return next(iter(self.grid.push_messages([message])), "")

    def fetch(self, waiting: Mapping[str, int]) -> Iterator[tuple[str, Data | NoAnswer]]:
        # Flower's grids read all replies that are asked for at once.
        for message_id in list(waiting):
            for reply in self.grid.pull_messages([message_id]):
                try:
                    yield message_id, data_of(reply)
                except PeerError as error:
                    yield message_id, NoAnswer(str(error))


@dataclass(frozen=True)
class _TaskPost:
    """Over plait's own grid, without a message of Flower's around every task and answer."""

    grid: ByteGrid

    def send(self, node: int, message_type: str, task: TaskParts, group: str) -> str:
        return self.grid.give(GivenTask(node, message_type, group, *task))

    def fetch(self, waiting: Mapping[str, int]) -> Iterator[tuple[str, Data | NoAnswer]]:
        for taken in self.grid.take(waiting):
            data = taken.data
            if isinstance(data, NoAnswer):
                node = waiting.get(taken.message_id)
                data = NoAnswer(f"node {node} failed: {printable(data.detail)}")
            yield taken.message_id, data


@dataclass(eq=False)
class GridExchange:
    """A `plait.rounds.channel.Exchange` over a grid."""

    channel: GridChannel
    post: _Post
    attended: AttendedGrid | None
    purpose: Purpose
    group: str

    def __post_init__(self) -> None:
        self._waiting: dict[str, int] = {}
        self._unsent: deque[int] = deque()
        self._fetched: Iterator[tuple[str, Data | NoAnswer]] = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # A server that is told to end, or whose disk is full, goes on later: clients work on meanwhile.
        goes_on = any(isinstance(each, (Interrupted, KeyboardInterrupt, MachineError)) for each in error)
        if self._waiting and not goes_on and self.attended:
            self.attended.withdraw([*self._waiting], "enough")
        self._waiting.clear()

    def send(self, node: int, task: TaskParts, group: str = "") -> None:
        """Send a task to a node."""
        message_id = self.post.send(node, _MESSAGE_TYPES[self.purpose], task, group or self.group)
        if message_id:
            self._waiting[message_id] = node
        else:
            self._unsent.append(node)

    def withdraw(self, node: int, reason: str) -> None:
        """Stop waiting for a node's answer."""
        given_up = [message_id for message_id, asked in self._waiting.items() if asked == node]
        if self.attended:
            self.attended.withdraw(given_up, reason)
        for message_id in given_up:
            del self._waiting[message_id]

    def receive(self, timeout_s: float | None) -> tuple[int, Data | NoAnswer] | None:
        """Wait for the next answer."""
        if self._unsent:
            node = self._unsent.popleft()
            return node, NoAnswer(f"node {node} could not be sent its task")
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = _SHORTEST_PAUSE_S
        while self._waiting:
            if found := self._next():
                return found
            if deadline is not None:
                pause_s = min(pause_s, deadline - time.monotonic())
                if pause_s <= 0:
                    return None
            self.channel.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return None

    def _next(self) -> tuple[int, Data | NoAnswer] | None:
        """An answer that is there: those found by one look at all that is waited for, one by one, and then another."""
        for look_again in (True, False):
            for message_id, data in self._fetched:
                node = self._waiting.pop(message_id, None)
                if node is not None:  # else it was withdrawn meanwhile, or has answered
                    return node, data
            if look_again:
                self._fetched = self.post.fetch(self._waiting)
        return None
