"""``plait simulate``: real federated rounds on this machine, from data to an adapter and a report."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Generator, Mapping
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from plait.cli.names import check_names
from plait.cli.options import run_config, with_run_options
from plait.cli.progress import say, status, watch
from plait.config import RunConfig
from plait.errors import ConfigError, DiskFullError, Interrupted

if TYPE_CHECKING:
    from plait.rounds.local_channel import StopRequest
    from plait.rounds.run_directory import RunDirectory
    from plait.rounds.starting_point import StartingPoint
    from plait.run import Run
    from plait.simulation.partitioned_data import PartitionedData
    from plait.simulation.simulation import Simulation


# As a fraction of the adapters that a run starts from.
_WORTH_TELLING = 1e-3


@with_run_options()
def simulate(
    given: Mapping[str, object],
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with the same keys; options override it.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else.")] = False,
) -> None:
    """Run a federation on this machine, with real training and real messages.

    Example: plait simulate --data my.jsonl --partition natural:author --clients 8 --rounds 5 --out runs/first
    """
    settings = run_config(given, config)
    out = settings.out or f"runs/{datetime.now():%Y%m%d-%H%M%S}"
    from plait.rounds.run_directory import RunDirectory

    if RunDirectory(Path(out)).has_started:
        raise ConfigError(f"'{out}' already holds a run; `plait resume {out}` continues it, or give another --out")
    check_names(settings)
    run, data = prepare(settings.model_copy(update={"out": out}), quiet=json_output)
    start = begin(run, quiet=json_output)
    with told_how_to_go_on(out):
        execute(run, data, start, quiet=json_output)
        finish(Path(out), json_output=json_output)


def prepare(settings: RunConfig, *, quiet: bool) -> tuple[Run, PartitionedData]:
    """Fetch data and base, partition the data, and resolve the run.

    Raises:
        PlaitError: anything that would stop the run later; nothing is written before this is through.
    """
    with status("loading libraries", quiet=quiet):
        from plait.report.wording import plural
        from plait.run import resolve
        from plait.settle import settle
        from plait.simulation.partitioned_data import load_partitioned
        from plait.training.bases import quiet_libraries
        from plait.training.device import choose_compute
        from plait.training.four_bits import check_four_bits

        quiet_libraries()
        compute = choose_compute(settings.device, settings.dtype)
        settled = settle(settings)
        if settled.method.quantised:
            check_four_bits(compute.device.type)

    def progress(text: str) -> None:
        say(text, quiet=quiet)

    with status(f"partitioning {settings.data} over {plural(settings.clients, 'client')}", quiet=quiet):
        data = load_partitioned(settings, progress=progress)
        for note in data.partition.notes:
            progress(note)
        settled = settled.on_data(partition=str(data.scheme), labels=",".join(data.dataset.labels))
    with status(f"looking for base {settings.base}", quiet=quiet):
        return resolve(settled, progress=progress), data


def begin(run: Run, *, quiet: bool) -> StartingPoint:
    """What a new run is to begin with; says so where some of it is lost.

    Raises:
        PlaitError: the adapters that the run names cannot be begun with.
    """
    from plait.stacking import starting_point_of

    start = starting_point_of(run)
    if start.lost > _WORTH_TELLING:
        say(f"rank {run.config.rank} loses {start.lost:.1%} of the given adapters", quiet=quiet)
    return start


def execute(run: Run, data: PartitionedData, start: StartingPoint | None = None, *, quiet: bool) -> None:
    """Run (or continue) the rounds, then the baselines."""
    from plait.rounds.run_directory import RunDirectory
    from plait.simulation.references import add_references
    from plait.simulation.simulation import Simulation

    directory = RunDirectory(Path(run.config.out))
    simulation = Simulation(run, data)
    if not is_finished(directory):
        _run_rounds(directory, run, simulation, start, quiet=quiet)
    if run.config.references:
        with status(f"training the baselines: {', '.join(run.config.references)}", quiet=quiet) as update:
            add_references(directory, run, simulation, progress=update)


def is_finished(directory: RunDirectory) -> bool:
    """Whether all rounds of the run are done."""
    from plait.rounds.events import RunFinished
    from plait.rounds.ledger import read_events

    return directory.has_started and any(isinstance(event, RunFinished) for event in read_events(directory.ledger))


def is_reported(run: Path) -> bool:
    """Whether the report has been written since the ledger was."""
    try:
        return (run / "report.html").stat().st_mtime_ns >= (run / "ledger.jsonl").stat().st_mtime_ns
    except FileNotFoundError:
        return False


def _run_rounds(
    directory: RunDirectory, run: Run, simulation: Simulation, start: StartingPoint | None, *, quiet: bool
) -> None:
    from plait.federation import run_federation
    from plait.rounds.local_channel import StopRequest

    stop = StopRequest()
    _stop_on_interrupt(stop, quiet=quiet)
    config = run.config
    with watch(directory.ledger, rounds=config.rounds, cohort=config.cohort_size, clients=config.clients, quiet=quiet):
        run_federation(simulation.channel(stop), run, start=start)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def finish(run: Path, *, json_output: bool) -> None:
    """Write the report and show it."""
    from rich.console import Console

    from plait.report import report_tables, to_rich, write_report

    view = write_report(run)
    if json_output:
        sys.stdout.write((run / "summary.json").read_text())
        return
    screen = Console()
    for table in report_tables(view):
        screen.print(to_rich(table))
    screen.print(f"report   {run / 'report.html'}", highlight=False, markup=False)
    screen.print(f"adapter  {run / 'adapter'}", highlight=False, markup=False)


def _stop_on_interrupt(stop: StopRequest, *, quiet: bool) -> None:
    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        say("stopping after the current client; press Ctrl-C again to quit at once", quiet=quiet)

    signal.signal(signal.SIGINT, handle)


@contextlib.contextmanager
def told_how_to_go_on(run: str | Path) -> Generator[None]:
    """If a run stops that can be resumed, its last line says how."""
    from plait.rounds.run_directory import RunDirectory

    try:
        yield
    except (KeyboardInterrupt, Interrupted, DiskFullError) as stopped:
        begun = RunDirectory(Path(run)).has_started
        how = f"continue with: plait resume {run}" if begun else "start it again with the same command"
        if isinstance(stopped, KeyboardInterrupt):
            raise Interrupted(f"stopped by the user; {how}") from None
        raise stopped if how in str(stopped) else type(stopped)(f"{stopped}; {how}") from stopped
