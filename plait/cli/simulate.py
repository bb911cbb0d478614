"""``plait simulate``: federated rounds on this machine, from data to an adapter and a report; and how a run ends."""

import contextlib
import shlex
import shutil
import signal
import sys
import textwrap
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from plait.api.running import start
from plait.cli.options import ConfigFile, PageAddress, run_config, with_run_options
from plait.cli.output import print_tables
from plait.config import RunConfig
from plait.errors import DiskFullError, RunInterrupted
from plait.ledger.ledger import read_events
from plait.ledger.run_view import RunView
from plait.report.answers import answers
from plait.report.tables import report_tables, shown_first
from plait.report.terminal import say
from plait.rounds.channel import StopRequest
from plait.rounds.run_directory import RunDirectory
from plait.system.text import escaped

if TYPE_CHECKING:
    from plait.api.serving import Serving  # a plain run needs none

Verbose = Annotated[bool, typer.Option("--verbose", help="At the end, print every table of the report.")]


@with_run_options
def simulate(
    given: Mapping[str, object],
    page: PageAddress = "",
    config: ConfigFile = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else.")] = False,
    verbose: Verbose = False,
) -> None:
    """Run a federation on this machine, with real training and real messages.

    Example: plait simulate --data my.jsonl --partition natural:author --clients 8 --rounds 5 --out runs/first
    """
    if _listed(given, config, json_output=json_output):
        return
    settings = run_config(given, config).with_out()
    with with_resume_hint(settings, page=page), page_of_run(Path(settings.out), page):
        with stopped_by_interrupt(quiet=json_output) as stop:
            start(settings, stop=stop, quiet=json_output)
        show(Path(settings.out), json_output=json_output, verbose=verbose)


def page_of_run(run: Path, page: str) -> contextlib.AbstractContextManager[object]:
    """The live page of a run, if one is asked for."""
    if not page:  # what a plain run needs not is imported where it is used
        return contextlib.nullcontext()
    from plait.page.beside import page_beside

    return page_beside(run, page)


def _listed(given: Mapping[str, object], config: Path | None, *, json_output: bool) -> bool:
    """Print the methods or the rules, if that is what is asked for instead of a run."""
    asked = [name for name in ("method", "rule") if given.get(name) == "list"]
    if asked:
        from plait.cli.lists import print_methods, print_rules

        others = run_config({key: value for key, value in given.items() if key not in asked}, config)
        (print_methods if asked[0] == "method" else print_rules)(others, json_output=json_output)
    return bool(asked)


def show(run: Path, *, json_output: bool, verbose: bool = False) -> None:
    """Show how a run ended: ``summary.json``, or a few lines and what to do next, after all tables if verbose."""
    if json_output:
        sys.stdout.write((run / "summary.json").read_text())
        return
    view = RunView.of(read_events(run / "ledger.jsonl"))
    if verbose:
        print_tables(report_tables(view))
    print_ending(view, run)


@contextlib.contextmanager
def stopped_by_interrupt(*, quiet: bool) -> Generator[StopRequest]:
    """Asks the run in the block to stop at the first Ctrl-C; the second, or one before its rounds, ends it at once."""
    stop = StopRequest()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.asked or not stop.heeded:
            raise KeyboardInterrupt
        stop.asked = True
        say("stopping after the current client; press Ctrl-C again to quit at once", quiet=quiet)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def with_resume_hint(settings: RunConfig, serving: "Serving | None" = None, *, page: str = "") -> Generator[None]:
    """If a run stops that can be resumed, its last line states how."""
    try:
        yield
    except (KeyboardInterrupt, RunInterrupted, DiskFullError) as stopped:
        from plait.api.received import how_to_resume

        begun = RunDirectory(Path(settings.out)).has_started
        how = (
            f"continue with: {how_to_resume(settings, serving, page=page)}"
            if begun
            else "start it again with the same command"
        )
        if isinstance(stopped, KeyboardInterrupt):
            raise RunInterrupted(f"stopped by the user; {how}") from None
        raise stopped if how in str(stopped) else type(stopped)(f"{stopped}; {how}") from stopped


_QUESTION = 17
_WIDEST = 100
_MOST_NEXT = 3


def print_ending(view: RunView, run: Path) -> None:
    """Print the end of a run."""
    columns = min(shutil.get_terminal_size().columns, _WIDEST)
    print()
    for each in answers(view):
        lines = textwrap.wrap(f"{each.short}. {each.text}", columns - _QUESTION, break_on_hyphens=False) or [""]
        for question, line in zip([each.question, *[""] * (len(lines) - 1)], lines, strict=True):
            print(escaped(f"{question:<{_QUESTION}}{line}"))
    print()
    print_tables(shown_first(run))
    print(f"{'Report':<{_QUESTION}}{run / 'report.html'}")
    print(f"{'Adapter':<{_QUESTION}}{run / 'adapter'}")
    print()
    for what, command in list(_next(view, run))[:_MOST_NEXT]:
        print(f"{what:<{_QUESTION}}{_to_paste(command)}")


def _to_paste(command: str) -> str:
    """The command with the program's path where no shell finds it, as after `make simulate`."""
    is_elsewhere = Path(sys.argv[0]).name == "plait" and not shutil.which("plait")
    return command.replace("plait", shlex.quote(sys.argv[0]), 1) if is_elsewhere else command


def _next(view: RunView, run: Path) -> Iterator[tuple[str, str]]:
    shown = shlex.quote(str(run))
    if view.rounds and not view.is_classification:
        yield "Talk to it", f"plait chat {shown}"
    if view.rounds:
        yield "Take it along", f"plait export {shown} my-adapter --to peft"
    yield "See all figures", f"plait report {shown}"
    yield "Check its record", f"plait verify {shown}"
