"""Text made safe for a terminal, a log, a report or an error message; how far something is, and how long it takes.

Names and details come from peers. An escape sequence must not reach a terminal, nor a change of direction a page.
"""

from __future__ import annotations

import re
import shutil
import textwrap
import time
from functools import partial
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, Task


def printable(text: str, *, limit: int | None = None) -> str:
    """`text` as one printable line: each control, formatting, separating or unassigned character becomes a space.

    Args:
        limit: the most characters to return; what is longer is cut and ends with an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[: limit - 1]}…"
    if text.isprintable():
        return text  # pictures in a page are megabytes of letters
    return "".join(char if char.isprintable() else " " for char in text)


def escaped(text: str, *, keep: str = "") -> str:
    """`text` with every unprintable character, but those in `keep`, as an escape sequence, so that nothing is lost."""
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)


def fitted(text: str, stream: TextIO, *, indent: int = 0) -> str:
    """`text` as lines that a terminal shows whole; as it is where `stream` is none.

    What stands between backticks stays in one line; a command in a line of its own may be broken, and can be pasted
    all the same.

    Args:
        indent: columns before the second part of a line that is broken, besides those before the first.
    """
    if not stream.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    joined = re.sub("`[^`]*`", lambda found: found[0].replace(" ", "\0"), text)
    return "\n".join(_broken(line, columns, indent) for line in joined.split("\n")).replace("\0", " ")


def _broken(line: str, columns: int, indent: int) -> str:
    before = len(line) - len(line.lstrip())
    wrap = partial(textwrap.wrap, line, break_long_words=False, break_on_hyphens=False)
    if len(line) > columns and line[before:].startswith("plait "):
        return " \\\n".join(wrap(columns - 2, subsequent_indent=" " * (before + 2)))
    return "\n".join(wrap(columns, subsequent_indent=" " * (before + indent)))


# Before that, the time taken predicts nothing.
_KNOWN_AFTER_S = 2
# Shorter times are not shown.
_SHORT_S = 2
_LINES_EVERY_S = 30
_BAR_COLUMNS = 16


def to_go(done: float, total: float, elapsed_s: float) -> str:
    """How long the rest takes at the pace so far; empty where that is not known."""
    if not 0 < done < total or elapsed_s < _KNOWN_AFTER_S:
        return ""
    rest = round(elapsed_s * (total - done) / done)
    if rest < 60:
        return f"about {max(1, rest)} s to go"
    return f"about {rest // 60} min to go" if rest < 3600 else f"about {rest // 3600} h {rest % 3600 // 60} min to go"


def bars(screen: Console) -> Progress:
    """A line with what is done, a bar where it is known how much there is to do, and how long it takes."""
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
    from rich.text import Text

    class Bar(BarColumn):
        def render(self, task: Task) -> RenderableType:  # type: ignore[override]
            return super().render(task) if task.total else ""

    class Time(ProgressColumn):
        def render(self, task: Task) -> Text:
            since = f"{task.elapsed:.0f} s" if task.elapsed and task.elapsed > _SHORT_S else ""
            return Text(task.fields.get("left") or since)

    shown = (SpinnerColumn(), TextColumn("{task.description}"), Bar(bar_width=_BAR_COLUMNS), Time())
    return Progress(*shown, console=screen, transient=True, disable=not screen.is_terminal)


class Lines:
    """Progress as lines of a file: each step, and twice a minute how far it is."""

    def __init__(self, screen: Console, *, every_step: bool = True) -> None:
        self._screen = screen
        self._every_step = every_step
        self._step = ""
        self._next = time.monotonic() + _LINES_EVERY_S

    def add(self, text: str) -> bool:
        """Print the text if it is time; returns whether it is of another step than the last one."""
        before, self._step = self._step, text.partition(": ")[0]
        is_other, now = self._step != before, time.monotonic()
        if (is_other and self._every_step) or now > self._next:
            self._next = now + _LINES_EVERY_S
            if not self._screen.is_terminal:
                self._screen.print(as_markup(text))
        return is_other


def as_markup(text: str) -> str:
    """The text as rich's markup that shows it literally."""
    from rich.markup import escape

    return escape(escaped(text))
