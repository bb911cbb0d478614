"""What a command shows while it works, on stderr: a line, a message, and the progress of a run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

from plait.system.text import Lines, as_markup, bars, fitted

if TYPE_CHECKING:
    from rich.console import Console


def say(text: str, *, quiet: bool) -> None:
    """One line on stderr."""
    if not quiet:
        sys.stderr.write(f"{fitted(text, sys.stderr)}\n")


def console() -> Console:
    """The console for progress; what is no terminal gets a sentence in one line, however long."""
    from rich.console import Console

    screen = Console(stderr=True, highlight=False)
    screen.soft_wrap = not screen.is_terminal
    return screen


@contextlib.contextmanager
def status(message: str, *, quiet: bool) -> Generator[Callable[[str], None]]:
    """Show what is done while the block runs, and since when.

    The block gets a function that replaces the message. What it has after a colon is how far a step is
    (`plait.data.packages.growing`): a file gets each step in a line, and how far it is twice a minute.
    """
    if quiet:
        yield lambda _text: None
        return
    with bars(console()) as shown:
        task, lines = shown.add_task(as_markup(message), total=None), Lines(shown.console)
        lines.add(message)

        def show(text: str) -> None:
            if lines.add(text):
                shown.reset(task, total=None)
            shown.update(task, description=as_markup(text))

        yield show


@contextlib.contextmanager
def watch(ledger: Path, *, rounds: int, cohort: int, evaluators: int, quiet: bool) -> Generator[None]:
    """Show the run that writes `ledger` while the block runs."""
    if quiet:
        yield
        return
    from plait.report.viewer import shown

    with shown(ledger, console(), rounds=rounds, cohort=cohort, evaluators=evaluators):
        yield
