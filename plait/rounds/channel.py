"""The seam between the round loop and whatever carries its messages (in process, gRPC, Flower's engine).

The loop sees node numbers and blobs; a driver never looks into the blobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Protocol


class Purpose(StrEnum):
    """What a task asks of a client."""

    DESCRIBE = "describe"
    TRAIN = "train"
    EVALUATE = "evaluate"


class Channel(Protocol):
    """Carries tasks to nodes and their replies back."""

    def nodes(self) -> Sequence[int]:
        """The nodes that can be reached now."""
        ...

    def exchange(self, tasks: Mapping[int, bytes], purpose: Purpose, group: str) -> Iterator[tuple[int, bytes | str]]:
        """Send one task to each node and yield replies as they come.

        Args:
            tasks: node number to encoded task.
            purpose: what the tasks ask for.
            group: the round, for drivers that group messages.

        Yields:
            (node, reply bytes), or (node, what went wrong) for a node that failed to answer.
        """
        ...
