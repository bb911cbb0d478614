"""A Flower `Grid` as plait's `Channel`: a SuperLink's, or that of Flower's simulation."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Self

from flwr.serverapp import Grid

from plait.errors import PeerError
from plait.flower.blob import from_message, to_content
from plait.rounds.channel import Data, Liveness, NoAnswer, Purpose, StopRequest, TaskParts, WallClock
from plait.transport.protocol import MESSAGE_TYPES

_SHORTEST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0


class GridChannel:
    """Sends tasks to the nodes of a grid and pulls answers one at a time, so that at most one is in memory.

    Args:
        stop: stops the run while it waits.
    """

    open_ended = True

    def __init__(self, grid: Grid, stop: StopRequest | None = None) -> None:
        self.grid = grid
        self._stop = stop or StopRequest()
        self.clock = WallClock()

    def nodes(self, at_least: int) -> Sequence[int]:
        """All connected nodes, once there are enough."""
        pause_s = _SHORTEST_PAUSE_S
        while len(nodes := sorted(self.grid.get_node_ids())) < at_least:
            self.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return nodes

    def wait(self, timeout_s: float) -> None:
        """Wait so long: Flower says nothing of itself.

        Raises:
            RunInterrupted: the run was asked to stop.
        """
        self._stop.check()
        time.sleep(timeout_s)

    def identity(self, node: int) -> None:
        """Flower does not say which nodes it has admitted."""

    def liveness(self, node: int) -> Liveness:
        """Flower gives up nodes that are away."""
        del node
        return Liveness()

    def turn_away(self, node: int, reason: str, detail: str) -> None:
        """Flower tells a node nothing but messages."""

    def exchange(self, purpose: Purpose, group: str) -> GridExchange:
        """Begin to send tasks."""
        return GridExchange(self, purpose, group)


class GridExchange:
    """A `plait.rounds.channel.Exchange` over a grid."""

    def __init__(self, channel: GridChannel, purpose: Purpose, group: str) -> None:
        self._channel, self._grid = channel, channel.grid
        self._message_type, self._group = MESSAGE_TYPES[purpose], group
        self._waiting: dict[str, int] = {}
        self._unsent: deque[int] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.clear()

    def send(self, node: int, task: TaskParts, group: str = "") -> None:
        """Send a task to a node."""
        # One at a time: for a message that it could not send, a grid may leave the id empty or out.
        message = self._grid.create_message(to_content(*task), self._message_type, node, group or self._group)
        if message_id := next(iter(self._grid.push_messages([message])), ""):
            self._waiting[message_id] = node
        else:
            self._unsent.append(node)

    def withdraw(self, node: int, reason: str) -> None:
        """Stop waiting for a node's answer."""
        del reason
        self._waiting = {message_id: asked for message_id, asked in self._waiting.items() if asked != node}

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
            self._channel.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return None

    def _next(self) -> tuple[int, Data | NoAnswer] | None:
        """An answer that is there."""
        # Flower's grids read all replies that are asked for at once.
        for message_id, node in list(self._waiting.items()):
            for reply in self._grid.pull_messages([message_id]):
                del self._waiting[message_id]
                try:
                    return node, from_message(reply)
                except PeerError as error:
                    return node, NoAnswer(str(error))
        return None
