"""Show the progress of a run by reading its ledger as it grows; works the same for every driver.

A terminal gets a progress bar and one line per round; a file gets the lines only. Everything goes to stderr.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.console import Console
from rich.markup import escape

from plait.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from plait.adapters import Json

_PAUSE_S = 0.2
_MOST_NAMED = 16


def console() -> Console:
    """The console for progress."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def status(message: str, *, quiet: bool) -> Generator[Callable[[str], None]]:
    """Show a message while the block runs; the block gets a function that replaces it."""
    screen = console()
    if quiet or not screen.is_terminal:
        say(message, quiet=quiet)
        yield lambda _text: None
        return
    with screen.status(escape(message)) as shown:
        yield lambda text: shown.update(escape(text))


@contextlib.contextmanager
def watch(ledger: Path, *, rounds: int, cohort: int, clients: int, quiet: bool) -> Generator[None]:
    """Show the run that writes `ledger` while the block runs."""
    if quiet:
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    screen = console()
    evaluations = (rounds + 1) * clients
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    ) as bars:
        viewer = _Viewer(screen, bars, total=rounds * cohort + evaluations, rounds=rounds)
        stop = threading.Event()
        thread = threading.Thread(target=_follow, args=(ledger, viewer, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=2)


class _Viewer:
    def __init__(self, screen: Console, bars: Progress, *, total: int, rounds: int) -> None:
        self._screen = screen
        self._bars = bars
        self._rounds = rounds
        self._base_loss: float | None = None
        self._newcomers: list[str] = []
        self._bar = bars.add_task("starting", total=total)

    def show(self, event: Mapping[str, Json]) -> None:
        kind, number = event["event"], event.get("round", 0)
        if kind in ("update_received", "update_refused"):
            self._bars.update(self._bar, advance=1, description=f"round {number} of {self._rounds}: training")
        elif kind == "reply_received" and event.get("purpose") == "evaluate":
            self._bars.update(self._bar, advance=1, description=f"round {number} of {self._rounds}: evaluating")
        if kind == "update_refused" and event.get("reason") != "need-full":
            self._screen.print(
                f"[yellow]refused[/] round {number}, {escape(_clean(event['client']))}: "
                f"{escape(_clean(event['detail']))}"
            )
        elif kind == "client_turned_away":
            self._screen.print(
                f"[yellow]cannot take part[/] {escape(_clean(event['client']))} ({escape(_clean(event['reason']))}): "
                f"{escape(_clean(event['detail']))}"
            )
        elif kind == "clients_described":
            self._newcomers += [_clean(client["client"]) for client in cast("list[dict[str, Json]]", event["clients"])]
        elif kind in ("waiting_for_clients", "clients_gathered"):
            self._show_here(event)
        elif kind == "publish_failed":
            self._screen.print(f"[yellow]not published[/] round {number}: {escape(_clean(event['detail']))}")
        elif kind == "evaluated":
            self._show_loss(cast("int", number), event)

    def _show_here(self, event: Mapping[str, Json]) -> None:
        """Show the clients that have joined since the last call, and how many are still missing."""
        wanted, fit, unfit = (cast("int", event.get(key, 0)) for key in ("wanted", "fit", "unfit"))
        names, self._newcomers = self._newcomers, []
        if names:
            more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            shown = escape(", ".join(names[:_MOST_NAMED]))
            self._screen.print(f"joined: {shown}{more} ({fit} of {wanted} clients)")
        if unfit and fit < wanted:
            self._screen.print(f"clients still missing: {wanted - fit}")

    def _show_loss(self, number: int, event: Mapping[str, Json]) -> None:
        loss = cast("float", event["loss"])
        accuracy = event.get("accuracy")
        text = f"held-out loss {loss:.4f}{_within(event.get('loss_margin'))}"
        if isinstance(accuracy, float):
            text += f", accuracy {accuracy:.3f}"
            if isinstance(interval := event.get("accuracy_interval"), list):
                low, high = cast("list[float]", interval)
                text += f" ({low:.3f} to {high:.3f})"
        if number == 0:
            self._base_loss = loss
            self._screen.print(f"base      {text}")
        else:
            change = event.get("change")
            if change is None and self._base_loss is not None:
                change = loss - self._base_loss
            if isinstance(change, float):
                text += f" ({change:+.4f}{_within(event.get('change_margin'))} against the base)"
            self._screen.print(f"round {number:<3} {text}")


def _follow(ledger: Path, viewer: _Viewer, stop: threading.Event) -> None:
    from plait.rounds.ledger import Follower

    events = Follower(ledger)
    while True:
        last = stop.is_set()
        for event in events.new_events():
            viewer.show(event)
        if last:
            return
        stop.wait(_PAUSE_S)


def _within(margin: Json) -> str:
    """Half the width of a 95 % interval, if known."""
    return f" \N{PLUS-MINUS SIGN} {margin:.4f}" if isinstance(margin, float) else ""


def _clean(value: Json) -> str:
    return printable(str(value), limit=300)


def say(text: str, *, quiet: bool) -> None:
    """One line on stderr."""
    if not quiet:
        sys.stderr.write(f"{text}\n")
