"""Simulate a federation from Python: one call from data to a result; `plait.api.resuming` continues one that stopped.

The same as ``plait simulate`` and ``plait resume``, to the last bit. Sets no signal handler, so it works in any thread
and in a notebook; Ctrl-C or "interrupt kernel" raises `KeyboardInterrupt` and leaves a run that `resume` continues.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from plait.api.result import Result
from plait.api.settings import RunSettings, base_name, dataset_of, run_config_of
from plait.config import RunConfig
from plait.data import MEMORY
from plait.errors import RunInterrupted
from plait.plugins import admit
from plait.rounds.callbacks import CallbackRunner, Callbacks, names_of
from plait.rounds.channel import StopRequest
from plait.rounds.run_directory import RunDirectory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from plait.aggregation import Rule
    from plait.data import Dataset


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
    from plait.api.running import start  # with the libraries of a run

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
    """Whatever ends the run in the block says how to continue it; a callback's own error comes before the run's."""
    try:
        # Only callbacks ask a run of this process to stop.
        with suppress(RunInterrupted):
            yield
        hearing.check()
    except BaseException as stopped:
        if RunDirectory(run).has_started:
            stopped.add_note(f"continue with plait.resume({str(run)!r})")
        raise
