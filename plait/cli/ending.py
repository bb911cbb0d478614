"""What the terminal shows once a run has ended: four answers, what features show of it, and what to do next."""

from __future__ import annotations

import shlex
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

from plait.cli.output import print_tables
from plait.feature import at, features
from plait.report.answers import answers
from plait.report.tables import shown_first
from plait.rounds.run_view import RunView
from plait.text import escaped

_QUESTION = 16
_WIDEST = 100
_MOST_NEXT = 3


def print_ending(view: RunView, run: Path) -> None:
    """Print the end of a run.

    Args:
        view: the run.
        run: its directory.
    """
    columns = min(shutil.get_terminal_size().columns, _WIDEST)
    print()
    for each in answers(view):
        lines = textwrap.wrap(f"{each.short}. {each.text}", columns - _QUESTION - 1) or [""]
        for question, line in zip([each.question, *[""] * (len(lines) - 1)], lines, strict=True):
            print(escaped(f"{question:<{_QUESTION}}{line}"))
    print()
    print_tables(shown_first(view))
    print(f"report   {run / 'report.html'}")
    print(f"adapter  {run / 'adapter'}")
    print()
    print("Next:")
    nexts = list(_next(view, run))[:_MOST_NEXT]
    width = max(len(command) for command, _ in nexts)
    for command, what in nexts:
        # A long path leaves no room for a comment.
        print(f"  {command:<{width}}  # {what}" if width + len(what) + 6 <= columns else f"  {command}")


def _next(view: RunView, run: Path) -> Iterator[tuple[str, str]]:
    """Commands to paste, and what each is for."""
    shown = shlex.quote(str(run))
    for feature in features():
        found = at(feature.afterwards)(view) if feature.afterwards else None
        if found is not None:
            yield found[0].replace("RUN", shown), found[1]
    yield f"plait report {shown}", "every figure, table and plot"
    yield f"plait verify {shown}", "check its record"
