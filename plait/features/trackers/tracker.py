"""What a tracker is: four calls in the order of a run. Knows no library and no ledger."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from plait.adapters import Json  # brings numpy along
    from plait.report.table import Table


@dataclass(frozen=True)
class TrackedRun:
    """A run, for a tracker.

    Attributes:
        config: its settings under the keys that users write.
        folder: where the tracker may keep files of its own.
        memory: what the tracker remembered of this run when it was stopped; empty for a run that is new to it.
    """

    name: str
    config: Mapping[str, Json]
    folder: Path
    memory: str = ""


class Tracker(Protocol):
    """Takes the figures of one run; a class of this shape without arguments is a tracker for ``report_to``."""

    def start(self, run: TrackedRun) -> str:
        """Begin, or go on.

        Returns:
            What to remember of this run (an id) if the tracker is stopped and goes on later; may be empty.
        """
        ...

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take figures by name (see `plait.features.trackers.series`) at a round; rounds never decrease."""
        ...

    def report(self, tables: Sequence[Table], files: Sequence[Path]) -> None:
        """Take the report: its tables, and the files that it is made of. Called once, before `finish`."""
        ...

    def finish(self) -> None:
        """Send what is left."""
        ...


def file_name(tracker: str) -> str:
    """A tracker's name, with its options, as the name of a file."""
    return re.sub(r"[^A-Za-z0-9_.-]+", ".", tracker)
