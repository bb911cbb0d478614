"""Continue a simulated run from where it stopped, with the settings that its directory has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from plait.api.received import admitted_settings
from plait.api.result import Result
from plait.api.settings import dataset_of
from plait.api.simulate import left_to_resume
from plait.config import RunConfig
from plait.data import MEMORY
from plait.errors import ConfigError
from plait.ledger.ledger import read_events
from plait.ledger.run_view import RunView
from plait.rounds.callbacks import CallbackRunner, Callbacks, names_of
from plait.rounds.channel import StopRequest
from plait.rounds.run_directory import RunDirectory, recorded_settings

if TYPE_CHECKING:
    from plait.api.serving import Serving
    from plait.data import Dataset


def settings_of(
    directory: RunDirectory,
    allowed: Sequence[str] = (),
    *,
    without: Collection[str] = (),
    serving: Serving | None = None,
) -> RunConfig:
    """The settings of an unfinished run, from its directory, wherever that has been moved to.

    Parts of the user's own that they name may be imported from here on. The arguments are those of `admitted_settings`.

    Raises:
        ConfigError: the run is finished and its report is written, the settings are not valid, or they name what the
            operator does not.
        PeerError: the ledger is broken.
    """
    run = directory.path
    view = RunView.after(read_events(directory.ledger))
    if view.finished and view.references.keys() >= set(recorded_settings(directory).references) and is_reported(run):
        raise ConfigError(f"'{run}' is finished, there is nothing to resume; `plait report {run}` shows it")
    return admitted_settings(directory, allowed, without=without, serving=serving)


def is_reported(run: Path) -> bool:
    """Whether the report has been written since the ledger was."""
    try:
        return (run / "report.html").stat().st_mtime_ns >= (run / "ledger.jsonl").stat().st_mtime_ns
    except FileNotFoundError:
        return False


def resume(
    run: str | PathLike[str],
    *,
    data: object = None,
    callbacks: Callbacks = (),
    allow: Sequence[str] = (),
    quiet: bool = False,
) -> Result:
    """Continue a simulated run from where it stopped; the resulting adapter is the same, bit for bit.

    Args:
        data: the data again, if they were an object or have moved; other data are refused.
        callbacks: as for `simulate`; they receive the recorded events first.
        allow: its settings that lead out of its directory, named again, such as ``rule=my_rules:mine``.
        quiet: whether to show no progress.

    Returns:
        The finished run; an unfinished one if a callback paused it.

    Raises:
        ConfigError: there is no such run, it is finished, a server ran it, or the data are not those it began with.
        PlaitError: the run stopped again, for this reason.
        KeyboardInterrupt: the user stopped it.
        Exception: what a callback raised.
    """
    from plait.api.running import go_on  # with the libraries of a run

    directory = RunDirectory.find(Path(run))
    if directory.server.exists():
        again = f"the same plait.Server, or `plait resume {run}`, continues it"
        raise ConfigError(f"'{run}' was served to clients, expected a simulated run: {again}")
    given = {"data": data is not None, "callbacks": bool(names_of(callbacks))}
    config = settings_of(directory, allow, without=[key for key, is_given in given.items() if is_given])
    if (names := names_of(callbacks)) not in ("", config.callbacks):
        raise ConfigError(
            f"callbacks of '{run}' are '{config.callbacks}', but got '{names}'; name the run's own with allow"
        )
    dataset = _data_again(config, data)
    stop = StopRequest()
    hearing = CallbackRunner(callbacks, stop)
    hearing.repeat(read_events(directory.ledger))
    with left_to_resume(directory.path, hearing):
        go_on(directory, config, dataset=dataset, on_event=hearing, stop=stop, quiet=quiet)
    return Result(run)


def _data_again(config: RunConfig, data: object) -> Dataset | None:
    """What a resumed run is given for the data that its settings name; the run checks that they are the same."""
    if data is None:
        return None

    return dataset_of(data, columns=config.columns, split=config.split, name=config.data.removeprefix(MEMORY))
