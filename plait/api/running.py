"""A simulated run from its settings to its report: what `plait simulate` and `plait.simulate` have in common.

Shows nothing but its progress, and sets no signal handler: what interrupts a run is its caller's.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from plait.api.beside import beside, check_features, end
from plait.api.names import check_names
from plait.api.turns import TURN
from plait.config import RunConfig
from plait.errors import ConfigError
from plait.progress import status
from plait.rounds.ledger import OnEvent
from plait.rounds.run_directory import RunDirectory
from plait.rounds.stop import StopRequest

if TYPE_CHECKING:
    from plait.data import Dataset


def start(
    settings: RunConfig,
    *,
    dataset: Dataset | None = None,
    on_event: OnEvent = lambda _: None,
    stop: StopRequest | None = None,
    quiet: bool,
) -> None:
    """Begin a run, finish it and write its report.

    Args:
        dataset: the data, if they are in memory already.
        on_event: called with every event.
        stop: asks the run to stop, or to end early.
        quiet: whether to show nothing.

    Raises:
        PlaitError: the reason that the run stopped; everything done until then is on disk.
    """
    directory = RunDirectory(Path(settings.out))
    if directory.has_started:
        raise ConfigError(
            f"'{settings.out}' already holds a run; `plait resume {settings.out}` continues it, or give another --out"
        )
    check_names(settings, data=dataset is None)
    check_features(settings, simulates=True)
    go_on(directory, settings, dataset=dataset, on_event=on_event, stop=stop, quiet=quiet)


def go_on(
    directory: RunDirectory,
    settings: RunConfig,
    *,
    dataset: Dataset | None = None,
    on_event: OnEvent = lambda _: None,
    stop: StopRequest | None = None,
    quiet: bool,
) -> None:
    """Continue a run, or begin it in an empty directory; finish it and write its report.

    The arguments besides the directory are those of `start`.

    Raises:
        PlaitError: the reason that the run stopped again.
    """
    with status("loading libraries", quiet=quiet):
        from plait.report.write import write_report
        from plait.simulation.execution import begin, execute, prepare
    with ExitStack() as works:
        with TURN:
            run, data = prepare(settings, dataset=dataset, quiet=quiet)
            works.enter_context(beside(settings, directory.path, quiet=quiet))
            first = None if directory.has_started else begin(run, quiet=quiet)
            execute(run, data, first, on_event=on_event, stop=stop, quiet=quiet)
            end(run, data, directory, quiet=quiet)
        with status("writing the report", quiet=quiet):
            write_report(directory.path)
