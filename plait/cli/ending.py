"""What the terminal shows once a run has ended: four answers, what features show of it, and what to do next."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from plait.cli.output import print_tables
from plait.known_features import features
from plait.places import at
from plait.report.answers import answers
from plait.report.tables import shown_first
from plait.rounds.run_view import RunView
from plait.text import escaped

_QUESTION = 17
_WIDEST = 100
_MOST_NEXT = 3


def print_ending(view: RunView, run: Path) -> None:
    """Print the end of a run."""
    columns = min(shutil.get_terminal_size().columns, _WIDEST)
    print()
    for each in answers(view):
        lines = textwrap.wrap(f"{each.short}. {each.text}", columns - _QUESTION) or [""]
        for question, line in zip([each.question, *[""] * (len(lines) - 1)], lines, strict=True):
            print(escaped(f"{question:<{_QUESTION}}{line}"))
    print()
    print_tables(shown_first(view))
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
    """What to do, and the command to paste."""
    shown = shlex.quote(str(run))
    for feature in features():
        found = at(feature.afterwards)(view) if feature.afterwards else None
        if found is not None:
            yield found[0], found[1].replace("RUN", shown)
    yield "See all figures", f"plait report {shown}"
    yield "Check its record", f"plait verify {shown}"
