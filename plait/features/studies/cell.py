"""One run of a sweep: begun, or continued where it was stopped; writes ``summary.json`` and no page.

Knows nothing of the other runs.
"""

from __future__ import annotations

from pathlib import Path

from plait.api.names import check_names
from plait.config import admit_features, config_from_table
from plait.features.studies.given import write_given
from plait.features.studies.grid import Settings
from plait.plugins import admit
from plait.report.write import write_summary
from plait.rounds.run_directory import RunDirectory
from plait.rounds.stop import StopRequest
from plait.simulation.execution import begin, execute, prepare
from plait.simulation.loaded import Loaded


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
