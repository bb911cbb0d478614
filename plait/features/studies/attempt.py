"""A run of a sweep whose failure does not end the sweep."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from plait.errors import Interrupted, PlaitError, machine_fault
from plait.features.studies.cell import run_cell
from plait.features.studies.grid import Settings
from plait.files import write_atomically
from plait.rounds.stop import StopRequest
from plait.simulation.loaded import Loaded


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        error: why it failed, in one line; empty if it did not.
        interrupted: whether it was asked to stop, and can be continued.
    """

    error: str = ""
    interrupted: bool = False


def attempt(settings: Settings, path: Path, loaded: Loaded, stop: StopRequest) -> Outcome:
    """Do a run (see `run_cell`).

    An error that is not plait's own, as of a user's rule, is written in full beside the run's directory.
    """
    try:
        run_cell(settings, path, loaded, stop)
    except Interrupted:
        return Outcome(interrupted=True)
    except PlaitError as error:
        return Outcome(_one_line(str(error)))
    except Exception as error:
        if fault := machine_fault(error):
            return Outcome(_one_line(str(fault)))
        trace = path.with_name(f"{path.name}.error.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(trace, traceback.format_exc().encode())
        return Outcome(f"{type(error).__name__}: {_one_line(str(error))} (in full in '{trace}')")
    return Outcome()


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "no reason given"
