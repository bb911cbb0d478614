"""How far something is, and how long it still takes: in words, in a line of a terminal, and in a file's lines.

Knows nothing of what is done, but of a download that its folder grows.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

from plait.text import escaped

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, Task

_LOOK_EVERY_S = 0.5
# Before that, how long something takes cannot be told from how long it has taken.
_KNOWN_AFTER_S = 2
# Nothing is said of the time that something shorter takes.
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


@contextlib.contextmanager
def growing(what: str, folder: Path, total_bytes: int, progress: Callable[[str], None]) -> Generator[None]:
    """Tell how much of a download has arrived while the block runs.

    Args:
        what: is done, such as ``downloading tiny``.
        total_bytes: of the whole download; 0 if that is not known.
        progress: called now and then, with `what`, a colon, and how far it is.
    """
    began, before, ended = time.monotonic(), _bytes_below(folder), threading.Event()

    def tell() -> None:
        while not ended.wait(_LOOK_EVERY_S):
            here = min(_bytes_below(folder) - before, total_bytes)
            so_far = f"{here / 1e6:.0f} of {total_bytes / 1e6:.0f} MB"
            left = to_go(here, total_bytes, time.monotonic() - began)
            progress(f"{what}: {', '.join(filter(None, (so_far, left)))}")

    progress(what)
    if not total_bytes:
        yield
        return
    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        # What is downloaded is moved about meanwhile.
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total


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
    """What a file is told of something that takes long: each step, and twice a minute how far it is."""

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
