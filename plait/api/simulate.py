"""Simulate a federation from Python, the same as ``plait simulate`` and ``plait resume``, to the last bit.

Sets no signal handler; Ctrl-C raises `KeyboardInterrupt` and leaves a run that `resume` continues.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from plait.api.received import admitted_settings
from plait.api.result import Result
from plait.api.running import go_on, start
from plait.api.settings import RunSettings, base_name, dataset_of, run_config_of
from plait.config import RunConfig
from plait.data import MEMORY, Dataset
from plait.errors import ConfigError, RunInterrupted
from plait.ledger.ledger import read_events
from plait.ledger.run_view import RunView
from plait.plugins import admit
from plait.rounds.callbacks import CallbackRunner, Callbacks, names_of
from plait.rounds.channel import StopRequest
from plait.rounds.run_directory import RunDirectory, recorded_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from plait.aggregation import Rule


def simulate(
    data: object = None,
    *,
    partition: str | Callable[..., object] | None = None,
    base: str | PathLike[str] | PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    rule: str | Rule | Callable[..., object] | None = None,
    clients: int | None = None,
    rounds: int | None = None,
    out: str | PathLike[str] | None = None,
    callbacks: Callbacks = (),
    quiet: bool = False,
    **settings: Unpack[RunSettings],
) -> Result:
    """Run a federation on this machine, with real training and real messages.

    Args:
        data: a file, a folder, a built-in's name, a data set of the hub, or an object: a data set of Hugging Face's
            datasets, a pandas frame, a list of mappings (see `plait.data.as_dataset`). By default the built-in.
        partition: how the data are partitioned over the clients: ``natural:COLUMN``, ``iid``, ``dirichlet:ALPHA`` …;
            by default it depends on the data.
        base: a built-in's name, a directory, a GGUF file, a hub id, or a model of transformers in memory.
        rule: how updates are combined: a name (`plait simulate --rule list` has them) or what `plait.rule` makes.
        out: the run directory, new; by default ``runs/<time>``.
        callbacks: called with every event of the run, in this thread; functions, or their names (``my_module:name``),
            which are settings of the run.
        quiet: whether to show no progress.
        settings: any other setting of a run (see `plait.config.RunConfig`).

    Returns:
        The finished run; an unfinished one if a callback paused it.

    Raises:
        PlaitError: settings or data are not valid (then nothing is written), or the run stopped for this reason.
        KeyboardInterrupt: the user stopped it.
        Exception: a callback's own error. `resume` continues the run in all three cases, once it has begun.
    """
    config = run_config_of(
        {
            **settings,
            "partition": partition,
            "base": base_name(base, tokenizer),
            "rule": rule,
            "clients": clients,
            "rounds": rounds,
            "out": out,
            "callbacks": names_of(callbacks),
        },
    )
    config, dataset = _with_data(config, data)
    stop = StopRequest()
    hearing = CallbackRunner(callbacks, stop)
    with left_to_resume(Path(config.out), hearing):
        start(config, dataset=dataset, on_event=hearing, stop=stop, quiet=quiet)
    return Result(config.out)


def _with_data(config: RunConfig, data: object) -> tuple[RunConfig, Dataset | None]:
    """Settings that name the data, and the data themselves if they are in memory."""
    if data is None:
        return config, None
    if isinstance(data, (str, PathLike)):
        admit(str(data))
        return config.model_copy(update={"data": str(data)}), None

    dataset = dataset_of(data, columns=config.columns, split=config.split)
    return config.model_copy(update={"data": f"{MEMORY}{dataset.name}"}), dataset


@contextmanager
def left_to_resume(run: Path, hearing: CallbackRunner) -> Generator[None]:
    """Errors that end the run in the block state how to continue it; a callback's own error comes before the run's."""
    try:
        # Only callbacks ask a run of this process to stop.
        with suppress(RunInterrupted):
            yield
        hearing.check()
    except BaseException as stopped:
        if RunDirectory(run).has_started:
            stopped.add_note(f"continue with plait.resume({str(run)!r})")
        raise


def check_unfinished(directory: RunDirectory) -> None:
    """Refuse (ConfigError) to go on with a run that is finished and whose report is written."""
    run, view = directory.path, RunView.after(read_events(directory.ledger))
    if view.finished and view.references.keys() >= set(recorded_settings(directory).references) and is_reported(run):
        raise ConfigError(f"'{run}' is finished, there is nothing to resume; `plait report {run}` shows it")


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
    directory = RunDirectory.find(Path(run))
    if directory.server.exists():
        again = f"the same plait.Server, or `plait resume {run}`, continues it"
        raise ConfigError(f"'{run}' was served to clients, expected a simulated run: {again}")
    given = {"data": data is not None, "callbacks": bool(names_of(callbacks))}
    check_unfinished(directory)
    config = admitted_settings(directory, allow, without=[key for key, is_given in given.items() if is_given])
    if (names := names_of(callbacks)) not in ("", config.callbacks):
        raise ConfigError(
            f"callbacks of '{run}' are '{config.callbacks}', but got '{names}'; name the run's own with allow"
        )
    name = config.data.removeprefix(MEMORY)  # the run checks that they are the same data
    dataset = None if data is None else dataset_of(data, columns=config.columns, split=config.split, name=name)
    stop = StopRequest()
    hearing = CallbackRunner(callbacks, stop)
    hearing.repeat(read_events(directory.ledger))
    with left_to_resume(directory.path, hearing):
        go_on(directory, config, dataset=dataset, on_event=hearing, stop=stop, quiet=quiet)
    return Result(run)
