"""The clock of a run: the machine's own, or the virtual one of a simulated fleet.

A channel brings its clock along, so that the round loop's deadlines and times mean the same over every driver.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from pydantic import JsonValue

from plait.rounds.events import Event

IN_PROGRESS = "in_progress"
"""Under what a run that goes on while rounds end remembers tasks in progress, by client (`RunState.remembered`)."""


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

    def ended(self, number: int, clients: Mapping[int, str]) -> Sequence[Event]:
        """Events of round `number` for simulated devices' tasks that ended since the last call; `clients` by node."""
        ...

    def in_progress(self) -> Mapping[int, Mapping[str, JsonValue]]:
        """What to remember of training tasks that simulated devices have not ended, by node; `began_s` is in each."""
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

    def ended(self, number: int, clients: Mapping[int, str]) -> Sequence[Event]:
        """Nothing: real devices keep their times to themselves."""
        del number, clients
        return ()

    def in_progress(self) -> Mapping[int, Mapping[str, JsonValue]]:
        """None, likewise."""
        return {}
