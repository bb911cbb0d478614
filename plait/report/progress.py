"""What a command shows while it works, on stderr: a line, a message, and the progress of a run."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from plait.ledger.events import (
    ClientsDescribed,
    ClientsGathered,
    ClientTurnedAway,
    EndedEarly,
    Evaluated,
    Event,
    NotPublished,
    PublishFailed,
    ReplyReceived,
    RoundFinished,
    RoundStarted,
    StepTakenBack,
    UpdateReceived,
    UpdateRefused,
    WaitingForClients,
)
from plait.ledger.ledger import Follower
from plait.ledger.run_now import WAITING, RunNow
from plait.report.wording import given_rate, rates_sentence, truncation_sentence
from plait.system.text import Lines, as_markup, bars, fitted, printable, to_go

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from plait.ledger.run_now import StatusSection


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

    with shown(ledger, console(), rounds=rounds, cohort=cohort, evaluators=evaluators):
        yield


_PAUSE_S = 0.2
_DOING = {"describe": "reading data", "train": "training", "evaluate": "evaluating"}
# Of a round; the rest is its evaluation.
_TRAINING_SHARE = 0.9
_MOST_NAMED = 16


@contextlib.contextmanager
def shown(ledger: Path, screen: Console, *, rounds: int, cohort: int, evaluators: int) -> Generator[None]:
    """Show the run that writes `ledger` while the block runs."""
    with bars(screen) as moving:
        viewer = Viewer(moving, rounds=rounds, cohort=cohort, evaluators=evaluators)
        stop = threading.Event()
        thread = threading.Thread(target=_follow, args=(ledger, viewer, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=2)


class Viewer:
    """Shows events one by one."""

    def __init__(self, bars: Progress, *, rounds: int, cohort: int = 1, evaluators: int = 0) -> None:
        self._screen = bars.console
        self._bars = bars
        self._lines = Lines(bars.console, every_step=False)
        self._rounds = rounds
        self._asked = {"describe": cohort, "train": cohort, "evaluate": evaluators}
        self._answered = Counter[tuple[int, str]]()
        self._doing = (0, "describe")
        self._now = RunNow()
        self._newcomers: list[str] = []
        self._turned_away: dict[str, list[ClientTurnedAway]] = {}
        self._missing: tuple[str, ...] = ()
        self._updates: list[UpdateReceived] = []
        self._rates_are_shown = False
        self._began: tuple[float, float] | None = None
        self._bar = bars.add_task(_DOING["describe"], total=None)

    def show(self, event: Event) -> None:
        """Show the next event."""
        known = self._now.cards
        self._now.take(event)
        self._show_cards(event, known)
        match event:
            case UpdateReceived():
                self._advance(event.round, "train")
                self._updates.append(event)
            case RoundStarted():
                self._doing = event.round, "train"
            case RoundFinished():
                self._show_refused(event.round)
                self._show_rates()
            case UpdateRefused():
                self._advance(event.round, "train")
                self._warn(
                    "refused", f"round {event.round}, {_clean(event.client)}: {_clean(event.detail or event.why)}"
                )
            case ReplyReceived(purpose="describe" | "evaluate"):
                self._advance(event.round, event.purpose)
            case ClientTurnedAway():
                self._turned_away.setdefault(event.reason, []).append(event)
            case ClientsDescribed():
                self._newcomers += [_clean(client.client) for client in event.clients]
                if sentence := truncation_sentence(event.clients, seq_len=self._now.settings.get("seq-len")):
                    self._screen.print(sentence)
            case WaitingForClients():
                self._show_here(event.wanted, event.fit, event.unfit)
                if event.missing and event.missing != self._missing:
                    names = ", ".join(map(_clean, event.missing))
                    how = "start the client again; --deadline-s limits how long a round waits"
                    self._warn("waiting", f"for {names}: {how}")
                self._missing = event.missing
            case ClientsGathered():
                self._show_here(event.wanted, event.fit, 0)
            case PublishFailed():
                self._warn("not published", f"round {event.round}: {_clean(event.detail)}")
            case Evaluated():
                self._show_loss(event)
            case StepTakenBack() | NotPublished() | EndedEarly():
                self._screen.print(f"[yellow]{event.sentence}[/]")
            case _:
                pass

    def _advance(self, number: int, purpose: str) -> None:
        self._doing = (number, purpose)
        self._answered[self._doing] += 1
        if purpose != "evaluate" and self._asked["evaluate"] and self._answered[self._doing] >= self._asked[purpose]:
            self._doing = number, "evaluate"

    def refresh(self) -> None:
        """Show what the clients do, how much of the run is done, and how long the rest takes."""
        for first, *others in self._turned_away.values():
            more = f" and {len(others)} more" if others else ""
            self._warn("cannot take part", f"{_clean(first.client)}{more}: {_clean(first.detail)}")
        self._turned_away.clear()
        number, purpose = self._doing
        answered, asked = min(self._answered[self._doing], self._asked[purpose]), self._asked[purpose]
        doing = _DOING[purpose] if number or purpose != "evaluate" else "evaluating the base"
        text = f"{doing}, {answered} of {asked} clients"
        if self._now.wanted and self._now.state == WAITING:
            text = self._now.state
        left = ""
        if number:
            text = f"round {number} of {self._rounds}: {text}"
            of_round = _TRAINING_SHARE * answered / asked
            if purpose == "evaluate":
                of_round = _TRAINING_SHARE + (1 - _TRAINING_SHARE) * answered / asked
            done = number - 1 + of_round
            if self._began is None:
                # A resumed run has rounds behind it.
                self._began = time.monotonic(), done
            since, before = self._began
            left = to_go(done - before, self._rounds - before, time.monotonic() - since)
            self._bars.update(self._bar, completed=done, total=self._rounds)
        self._bars.update(self._bar, description=text, left=left)
        self._lines.add(", ".join(filter(None, (text, left))))

    def _warn(self, what: str, text: str) -> None:
        self._screen.print(f"[yellow]{what}[/] {as_markup(text)}")

    def _show_here(self, wanted: int, fit: int, unfit: int) -> None:
        """Show the clients that have joined since the last call, and how many are still missing."""
        names, self._newcomers = self._newcomers, []
        if names:
            more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            shown = as_markup(", ".join(names[:_MOST_NAMED]))
            self._screen.print(f"joined: {shown}{more} ({fit} of {wanted} clients)")
        if unfit and fit < wanted:
            self._screen.print(f"clients still missing: {wanted - fit}")

    def _show_cards(self, event: Event, known: Mapping[str, StatusSection]) -> None:
        """Show a card's line for an event, and its warning once."""
        for place, card in self._now.cards.items():
            if line := card.line(event):
                self._screen.print(line)
            if place not in known and card.warning:
                self._warn("warning", card.warning)

    def _show_rates(self) -> None:
        """Show what the round's updates reveal of learning rates, once."""
        given = given_rate(self._now.settings)
        sentence = "" if given is None else rates_sentence(self._updates, given=given)
        self._updates = []
        if sentence and not self._rates_are_shown:
            self._rates_are_shown = True
            self._screen.print(f"[yellow]{sentence}[/]" if given else sentence)

    def _show_refused(self, number: int) -> None:
        """Show how many of the round's completions had no reward."""
        refused = sum(update.refused_completions or 0 for update in self._updates)
        if refused:
            which = "1 completion" if refused == 1 else f"{refused:,} completions"
            self._warn("left out", f"round {number}, {which} without a numeric reward")

    def _show_loss(self, score: Evaluated) -> None:
        text = f"held-out loss {score.loss:.4f}{_within(score.loss_margin)}"
        minus = self._now.loss_is_minus
        if minus:
            text = f"mean {minus} {0.0 - score.loss:.4f}{_within(score.loss_margin)}"
        if score.accuracy is not None:
            text += f", {'accuracy' if score.reward_margin is None else 'reward accuracy'} {score.accuracy:.3f}"
            if score.accuracy_interval is not None:
                text += " ({:.3f} to {:.3f})".format(*score.accuracy_interval)
        if score.reward_margin is not None:
            text += f", margin {score.reward_margin:+.3f}"
        if score.round == 0:
            self._screen.print(f"base      {text}")
            return
        if base := self._now.base_evaluation:
            change = score.change_since(base) * (-1 if minus else 1)
            text += f" ({change:+.4f}{_within(score.change_margin)} against the base)"
        self._screen.print(f"round {score.round:<3} {text}")


def _follow(ledger: Path, viewer: Viewer, stop: threading.Event) -> None:
    events = Follower(ledger)
    while True:
        last = stop.is_set()
        for event in events.new_events():
            viewer.show(event)
        viewer.refresh()
        if last:
            return
        stop.wait(_PAUSE_S)


def _within(margin: float | None) -> str:
    """Half the width of a 95 % interval, if known."""
    return "" if margin is None else f" \N{PLUS-MINUS SIGN} {margin:.4f}"


def _clean(text: str) -> str:
    return printable(text, limit=300)
