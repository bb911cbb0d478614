"""What a user's own tracker must do; `plait check-plugin` runs these, with a folder that is then removed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

from plait.contract import BrokenError, Check
from plait.features.trackers.process import tracker_named
from plait.features.trackers.tracker import TrackedRun, Tracker
from plait.report.table import Table

_FIGURES = {"held_out/loss": 2.5, "clients/ada/loss": 2.25, "bytes/uplink": 1000.0}


def _whole(make: Callable[[], Tracker]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _track(make(), Path(folder), "")


def _again(make: Callable[[], Tracker]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        memory = _track(make(), Path(folder), "")
        _track(make(), Path(folder), memory)


def _track(tracker: Tracker, folder: Path, memory: str) -> str:
    """A run of two rounds; returns what the tracker remembers of it."""
    file = folder / "summary.json"
    file.write_text("{}")
    kept = cast("object", tracker.start(TrackedRun("check", {"rank": 8}, folder, memory)))
    if kept is not None and not isinstance(kept, str):
        raise BrokenError(f"start returned {type(kept).__name__}, expected text or None")
    for step in (0, 1, 2):
        tracker.log(_FIGURES, step)
    tracker.report([Table("Losses", ("client", "loss"), (("ada", "2.25"),), "a note")], [file])
    tracker.finish()
    return kept or ""


TRACKER_CHECKS: tuple[Check[Callable[[], Tracker]], ...] = (
    Check("takes a run from start to finish", _whole),
    Check("goes on with a run that was resumed", _again),
)
"""The contract of a tracker; given what makes a new one."""

CONTRACT = (TRACKER_CHECKS, partial(partial, tracker_named))
