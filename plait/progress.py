"""What a command says while it works, on stderr: a line, a message, and the progress of a run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def say(text: str, *, quiet: bool) -> None:
    """One line on stderr."""
    if not quiet:
        sys.stderr.write(f"{text}\n")


def console() -> Console:
    """The console for progress."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def status(message: str, *, quiet: bool) -> Generator[Callable[[str], None]]:
    """Show a message while the block runs; the block gets a function that replaces it."""
    if quiet or not (screen := console()).is_terminal:
        say(message, quiet=quiet)
        yield lambda _text: None
        return
    from rich.markup import escape

    with screen.status(escape(message)) as shown:
        yield lambda text: shown.update(escape(text))


@contextlib.contextmanager
def watch(ledger: Path, *, rounds: int, cohort: int, eval_every: int, evaluators: int, quiet: bool) -> Generator[None]:
    """Show the run that writes `ledger` while the block runs."""
    if quiet:
        yield
        return
    from plait.viewer import shown

    evaluations = (1 + -(-rounds // eval_every)) * evaluators  # the base's, by the cadence, after the last round
    with shown(ledger, console(), steps=rounds * cohort + evaluations, rounds=rounds):
        yield
