"""plait's `Channel` over any Flower `Grid`: in process, over a SuperLink, or Flower's own simulation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from flwr.serverapp import Grid

from plait.errors import PeerError
from plait.rounds.channel import Purpose
from plait.simulation.blob import from_message, to_content

_MESSAGE_TYPES = {Purpose.DESCRIBE: "query", Purpose.TRAIN: "train", Purpose.EVALUATE: "evaluate"}
_SHORTEST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0


class GridChannel:
    """Sends tasks as Flower messages and pulls replies one at a time, so that one reply at most is in memory.

    Args:
        grid: Flower's grid.
        minimum_nodes: `nodes` waits until so many are connected.
    """

    def __init__(self, grid: Grid, *, minimum_nodes: int) -> None:
        self._grid = grid
        self._minimum_nodes = minimum_nodes

    def nodes(self) -> Sequence[int]:
        """All connected nodes, once there are enough."""
        pause_s = _SHORTEST_PAUSE_S
        while len(nodes := sorted(self._grid.get_node_ids())) < self._minimum_nodes:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return nodes

    def exchange(self, tasks: Mapping[int, bytes], purpose: Purpose, group: str) -> Iterator[tuple[int, bytes | str]]:
        """Send the tasks and yield the replies as they come."""
        waiting: dict[str, int] = {}
        for node, task in tasks.items():
            # One at a time: a grid may leave out of its answer, or leave empty, the number of what it could not send.
            message = self._grid.create_message(to_content(task), _MESSAGE_TYPES[purpose], node, group)
            message_id = next(iter(self._grid.push_messages([message])), None)
            if message_id:
                waiting[message_id] = node
            else:
                yield node, f"node {node} could not be sent its task"
        pause_s = _SHORTEST_PAUSE_S
        while waiting:
            answered = 0
            for message_id, node in list(waiting.items()):
                for reply in self._grid.pull_messages([message_id]):
                    if waiting.pop(message_id, None) is None:
                        continue
                    answered += 1
                    try:
                        yield node, from_message(reply)
                    except PeerError as error:
                        yield node, str(error)
            if answered:
                pause_s = _SHORTEST_PAUSE_S
            elif waiting:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
