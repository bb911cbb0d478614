"""One run of a sweep: begun, or continued where it was stopped; writes ``summary.json`` and no page.

Knows nothing of the other runs: its failure does not end the sweep.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from plait.api.names import check_names
from plait.config import admit_features, config_from_table
from plait.errors import Interrupted, PlaitError, machine_fault
from plait.features.studies.given import write_given
from plait.features.studies.grid import Settings
from plait.files import write_atomically
from plait.plugins import admit
from plait.report.write import write_summary
from plait.rounds.run_directory import RunDirectory
from plait.rounds.stop import StopRequest
from plait.simulation.execution import begin, execute, prepare
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


def run_cell(settings: Settings, path: Path, loaded: Loaded, stop: StopRequest) -> None:
    """Begin or continue the run in a directory, to its end.

    Raises:
        PlaitError: the reason that it stopped; everything done until then is on disk.
    """
    admit_features(settings)
    config = config_from_table({**settings, "out": str(path)}, where="run")
    admit(*config.plugins)
    check_names(config)
    directory = RunDirectory(path)
    run, data = prepare(config, quiet=True, loaded=loaded)
    start = None if directory.has_started else begin(run, quiet=True)
    write_given(settings, path)
    execute(run, data, start, quiet=True, loaded=loaded, stop=stop)
    write_summary(path)


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
