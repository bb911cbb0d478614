"""What a command shows while it works, on stderr: a line, a message, and the progress of a run."""

import contextlib
import sys
from collections.abc import Callable, Generator
from pathlib import Path

from plait.system.text import fitted


def say(text: str, *, quiet: bool) -> None:
    """One line on stderr."""
    if not quiet:
        sys.stderr.write(f"{fitted(text, sys.stderr)}\n")


@contextlib.contextmanager
def status(message: str, *, quiet: bool) -> Generator[Callable[[str], None]]:
    """Show what is done while the block runs, and since when.

    The block gets a function that replaces the message. What it has after a colon is how far a step is
    (`plait.data.packages.growing`): a file gets each step in a line, and how far it is twice a minute.
    """
    if quiet:
        yield lambda _text: None
        return
    with _terminal().shown_status(message) as show:
        yield show


@contextlib.contextmanager
def watch(ledger: Path, *, rounds: int, cohort: int, evaluators: int, quiet: bool) -> Generator[None]:
    """Show the run that writes `ledger` while the block runs."""
    if quiet:
        yield
        return
    with _terminal().shown(ledger, rounds=rounds, cohort=cohort, evaluators=evaluators):
        yield


def _terminal():
    from plait.report import terminal  # rich

    return terminal
