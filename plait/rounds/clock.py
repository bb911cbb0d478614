"""The clock of a run: the machine's own, or the virtual one of a simulated fleet.

A channel brings its clock along, so that the round loop's deadlines and times mean the same over every driver.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Span:
    """One task of one simulated device, in seconds of the virtual clock.

    Attributes:
        node: the driver's number of the device.
        device: its kind.
        purpose: of the task.
        began_s: when the server sent it, or the device came on.
        received_s: when the device had received it.
        worked_s: when it had done its work.
        ended_s: when the server had its answer, or the device stopped.
        outcome: ``answered``, ``dropped`` (the device failed) or ``released`` (no longer waited for).
        energy_j: that the device spent; None if its power is not known.
    """

    node: int
    device: str
    purpose: str
    began_s: float
    received_s: float
    worked_s: float
    ended_s: float
    outcome: str
    energy_j: float | None = None


class Clock(Protocol):
    """Tells the time of a run."""

    @property
    def is_virtual(self) -> bool:
        """Whether time passes by the model of a fleet only."""
        ...

    def now(self) -> float:
        """Seconds since a fixed moment; since the start of the run on a virtual clock."""
        ...

    def available(self, nodes: Sequence[int], at_least: int) -> Sequence[int]:
        """Those of the nodes that are on now; a virtual clock goes on until there are enough."""
        ...

    def spans(self) -> Sequence[Span]:
        """The tasks that simulated devices have ended since this was last asked, in the order of their ends."""
        ...

    def in_progress(self) -> Mapping[int, Span]:
        """The training tasks of simulated devices that have not ended, by node; what is to come is as far as known."""
        ...


class WallClock:
    """The machine's clock; every connected client is available."""

    is_virtual = False

    def now(self) -> float:
        """Seconds on the machine's monotonic clock."""
        return time.monotonic()

    def available(self, nodes: Sequence[int], at_least: int) -> Sequence[int]:
        """All of them."""
        del at_least
        return nodes

    def spans(self) -> Sequence[Span]:
        """None: real devices keep their times to themselves."""
        return ()

    def in_progress(self) -> Mapping[int, Span]:
        """None, likewise."""
        return {}
