"""A simulated run from its settings to its report.

Shows nothing but its progress, and sets no signal handler: what interrupts a run is its caller's.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from plait.api import TURN
from plait.composition import check_here
from plait.config import RunConfig
from plait.data import Dataset, check_data_name
from plait.errors import ConfigError
from plait.ledger.ledger import OnEvent
from plait.report.summary import write_report
from plait.report.terminal import status
from plait.rounds.callbacks import check_callbacks, trackers_of
from plait.rounds.channel import StopRequest
from plait.rounds.run_directory import RunDirectory
from plait.settings.tables import Samples
from plait.settle import settle
from plait.simulation.scheme import parse_partition
from plait.training.bases import check_base_name


def check_names(settings: RunConfig, *, runs: bool = True, data: bool = True) -> None:
    """Refuse an unknown name of data, base or partition, or of a part (`settle`).

    Args:
        runs: whether a run will follow; `plait estimate` knows more bases and needs no data.
        data: whether the data are to be found under their name; not if they are in memory.

    Raises:
        ConfigError: a name is unknown; the nearest known one is named.
        DataError: the data is not a file.
    """
    if runs:
        check_base_name(settings.base)
    if runs and data and settings.data:
        check_data_name(settings.data, columns=settings.columns, split=settings.split)
    if settings.partition:
        parse_partition(settings.partition)
    if runs:
        check_callbacks(settings.callbacks)
    settle(settings)


@contextmanager
def beside(config: RunConfig, run: Path, *, quiet: bool) -> Generator[None]:
    """Trackers follow the run while the block runs."""
    if not config.callbacks:
        yield
        return
    from plait.report.trackers import following

    with following(trackers_of(config.callbacks), run, quiet=quiet):
        yield


def start(
    settings: RunConfig,
    *,
    dataset: Dataset | None = None,
    on_event: OnEvent = lambda _: None,
    stop: StopRequest | None = None,
    quiet: bool,
) -> None:
    """Begin a run, finish it and write its report; `dataset` are the data, if they are in memory already."""
    directory = RunDirectory(Path(settings.out))
    if directory.has_started:
        raise ConfigError(
            f"'{settings.out}' already holds a run; `plait resume {settings.out}` continues it, or give another --out"
        )

    check_names(settings, data=dataset is None)
    check_here(settings, simulates=True)
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
    """Continue a run, or begin it in an empty directory; finish it and write its report."""
    with status("loading libraries", quiet=quiet):
        from plait.simulation.execution import begin, execute, prepare
    with ExitStack() as works:
        with TURN:
            run, data = prepare(settings, dataset=dataset, quiet=quiet)
            works.enter_context(beside(settings, directory.path, quiet=quiet))
            first = None if directory.has_started else begin(run, quiet=quiet)
            execute(run, data, first, on_event=on_event, stop=stop, quiet=quiet)
            if not quiet or run.config.has_any(Samples):
                from plait.api.sampling import sample

                sample(run, data, directory, quiet=quiet)
        with status("writing the report", quiet=quiet):
            write_report(directory.path)
