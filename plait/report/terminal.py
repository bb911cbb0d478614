"""What a terminal shows: a line, tables, what is done, and the progress of a run."""

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderResult
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Table as RichTable
from rich.text import Text

from plait.ledger import events
from plait.ledger.events import Event
from plait.ledger.ledger import Follower
from plait.ledger.run_now import WAITING, RunNow, StatusSection
from plait.report.answers import final_figure
from plait.report.table import Table
from plait.report.wording import (
    clean,
    given_rate,
    metric_texts,
    rates_sentence,
    repetition_sentence,
    truncation_sentence,
)
from plait.system.text import escaped, fitted, printable, to_go

# Shorter times are not shown.
_SHORT_S = 2
_LINES_EVERY_S = 30
_BAR_COLUMNS = 16
# A text column is never narrower than this to make room for numbers, unless its cells are.
_NARROWEST_TEXT = 16
_LONGEST_HEADING = 12
_ANY_WIDTH = 1 << 20
_RETURN = " \N{RETURN SYMBOL} "


def say(text: str, *, quiet: bool) -> None:
    """One line on stderr."""
    if not quiet:
        sys.stderr.write(f"{fitted(text, sys.stderr)}\n")


def to_rich(table: Table) -> ConsoleRenderable:
    """The table for a terminal. No cell is parsed as rich markup, and control characters are removed.

    If a terminal is too narrow for all columns, the rest follow below, again with the first column.
    """
    return _Shown(table)


@dataclass(frozen=True)
class _Shown:
    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # A measurement stays within the given width.
        unbounded = options.update(max_width=_ANY_WIDTH)
        parts = _parts(self.table, lambda part: part.__rich_measure__(console, unbounded).minimum <= options.max_width)
        for number, columns in enumerate(parts):
            part = _rich_table(self.table, columns)
            if number == 0:
                part.title = Text(clean(self.table.title), style="bold")
            yield part
        if self.table.note:
            yield Text(clean(self.table.note, limit=1000), style="table.caption")


def _parts(table: Table, fits: Callable[[RichTable], bool]) -> list[list[int]]:
    """Column indices of tables that fit; each starts with the column that names the rows."""
    parts = [[0]]
    for index in range(1, len(table.headings)):
        if len(parts[-1]) > 1 and not fits(_rich_table(table, [*parts[-1], index])):
            parts.append([0])
        parts[-1].append(index)
    return parts


def _rich_table(table: Table, columns: Sequence[int]) -> RichTable:
    shown = RichTable(title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(table.headings))
    columns_of_cells: list[list[str]] = []
    for index in columns:
        is_text = index in table.text_columns
        heading = _in_two_lines(clean(table.headings[index]))
        newline = _RETURN if index in table.code_columns else " "
        cells = [clean(row[index].replace("\n", newline)) for row in table.rows]
        columns_of_cells.append(cells)
        longest = max(map(cell_len, (*heading.splitlines(), *cells)), default=0)
        shown.add_column(
            Text(heading),
            justify="left" if is_text else "right",
            overflow="fold",
            no_wrap=not is_text,
            min_width=min(longest, _NARROWEST_TEXT) if is_text else longest,
        )
    for row in zip(*columns_of_cells, strict=True):
        shown.add_row(*map(Text, row))
    return shown


def _in_two_lines(heading: str) -> str:
    """A long heading broken near its middle, so that a table fits into 80 columns."""
    spaces = [index for index, character in enumerate(heading) if character == " "]
    if len(heading) <= _LONGEST_HEADING or not spaces:
        return heading
    middle = min(spaces, key=lambda index: abs(index - len(heading) / 2))
    return f"{heading[:middle]}\n{heading[middle + 1 :]}"


def console() -> Console:
    """The console for progress; what is no terminal gets a sentence in one line, however long."""
    screen = Console(stderr=True, highlight=False)
    screen.soft_wrap = not screen.is_terminal
    return screen


class _Bar(BarColumn):
    def render(self, task: Task) -> RenderableType:  # type: ignore[override]
        return super().render(task) if task.total else ""


class _Time(ProgressColumn):
    def render(self, task: Task) -> Text:
        since = f"{task.elapsed:.0f} s" if task.elapsed and task.elapsed > _SHORT_S else ""
        return Text(task.fields.get("left") or since)


def bars(screen: Console) -> Progress:
    """A line with what is done, a bar where it is known how much there is to do, and how long it takes."""
    shown = (SpinnerColumn(), TextColumn("{task.description}"), _Bar(bar_width=_BAR_COLUMNS), _Time())
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
    return escape(escaped(text))


@contextlib.contextmanager
def status(message: str, *, quiet: bool) -> Generator[Callable[[str], None]]:
    """Show on stderr what is done while the block runs, and since when.

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


_PAUSE_S = 0.2
_DOING = {"describe": "reading data", "train": "training", "evaluate": "evaluating"}
# Of a round; the rest is its evaluation.
_TRAINING_SHARE = 0.9
_MOST_NAMED = 16


@contextlib.contextmanager
def watch(ledger: Path, *, rounds: int, cohort: int, evaluators: int, quiet: bool) -> Generator[None]:
    """Show on stderr the run that writes `ledger` while the block runs."""
    if quiet:
        yield
        return
    with bars(console()) as moving:
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
        self._turned_away: dict[str, list[events.ClientTurnedAway]] = {}
        self._missing: tuple[str, ...] = ()
        self._updates: list[events.UpdateReceived] = []
        self._rates_are_shown = False
        self._began: tuple[float, float] | None = None
        self._bar = bars.add_task(_DOING["describe"], total=None)

    def show(self, event: Event) -> None:
        """Show the next event."""
        known = self._now.cards
        self._now.take(event)
        self._show_cards(event, known)
        match event:
            case events.UpdateReceived():
                self._advance(event.round, "train")
                self._updates.append(event)
            case events.RoundStarted():
                self._doing = event.round, "train"
            case events.RoundFinished():
                self._show_refused(event.round)
                self._show_rates()
            case events.UpdateRefused():
                self._advance(event.round, "train")
                self._warn(
                    "refused", f"round {event.round}, {_clean(event.client)}: {_clean(event.detail or event.why)}"
                )
            case events.ReplyReceived(purpose="describe" | "evaluate"):
                self._advance(event.round, event.purpose)
            case events.ClientTurnedAway():
                self._turned_away.setdefault(event.reason, []).append(event)
            case events.ClientsDescribed():
                self._newcomers += [_clean(client.client) for client in event.clients]
                if sentence := truncation_sentence(event.clients, seq_len=self._now.settings.get("seq-len")):
                    self._screen.print(sentence)
                if sentence := repetition_sentence(event.clients):
                    self._screen.print(sentence)
            case events.WaitingForClients():
                self._show_here(event.wanted, event.fit, event.unfit)
                if event.missing and event.missing != self._missing:
                    names = ", ".join(map(_clean, event.missing))
                    how = "start the client again; --deadline-s limits how long a round waits"
                    self._warn("waiting", f"for {names}: {how}")
                self._missing = event.missing
            case events.ClientsGathered():
                self._show_here(event.wanted, event.fit, 0)
            case events.PublishFailed():
                self._warn("not published", f"round {event.round}: {_clean(event.detail)}")
            case events.Evaluated():
                self._show_loss(event)
            case events.Judged():
                self._screen.print(final_figure(self._now))
            case events.StepTakenBack() | events.NotPublished() | events.EndedEarly():
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

    def _show_loss(self, score: events.Evaluated) -> None:
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
        text += "".join(f", {name} {value}" for name, value in metric_texts(score.metrics or (), score.metrics).items())
        if score.round == 0:
            self._screen.print(f"base      {text}")
            return
        if base := self._now.base_evaluation:
            change = score.change_since(base) * (-1 if minus else 1)
            text += f" ({change:+.4f}{_within(score.change_margin)} against the base)"
        self._screen.print(f"round {score.round:<3} {text}")


def _follow(ledger: Path, viewer: Viewer, stop: threading.Event) -> None:
    follower = Follower(ledger)
    while True:
        last = stop.is_set()
        for event in follower.new_events():
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
