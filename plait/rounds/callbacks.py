"""Callbacks: functions that hear of a run's events as they are recorded, and may stop it or end it.

A callback is called in the run's own thread with the typed events of `plait.rounds.events`, in the order of the ledger.
Whatever it takes longer, the run takes longer. If it raises, the run stops where it can be resumed, and the caller gets
the callback's own error. A run's settings can name some (`heard`); a program gives objects (`plait.simulate`). Knows
nothing of what a callback does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol, cast

from plait.choice import chosen_function, parse_choice, split_choices, with_options
from plait.errors import ConfigError, Interrupted
from plait.plugins import Kind, find, instance_of, located_errors
from plait.rounds.events import Event
from plait.rounds.ledger import OnEvent, read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.stop import StopRequest


class Stop(Enum):
    """What a callback may ask of its run.

    Attributes:
        PAUSE: stop before the next client starts to work; `plait.resume` continues the run.
        END: end the run after its current round, evaluated and published, as if that were its last.
    """

    PAUSE = auto()
    END = auto()


class Callback(Protocol):
    """Called with every event of a run once it is recorded.

    It hears the whole run, from its first event on: in a resumed run the recorded events come again first, so that
    what it counts is right. Of these, only `Stop.END` is heeded.
    """

    def __call__(self, event: Event, /) -> Stop | None:
        """Hear of an event; returns what the run is to do, None to go on."""
        ...


@dataclass(frozen=True)
class EarlyStopping:
    """End the run after `patience` evaluations without a lower held-out loss.

    This is the setting `patience` of a run. It is recorded with the run and needs not be given to `plait.resume`.

    Attributes:
        patience: evaluations, at least 1.
    """

    patience: int = 1

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ConfigError(f"patience of EarlyStopping is {self.patience}, expected at least 1")


Callbacks = Sequence[Callback | EarlyStopping | str]
"""What `callbacks` of a run may be; a text names some, as the settings do."""


class Hearing:
    """Calls callbacks with the events of one run, and passes what they ask on to it.

    Args:
        callbacks: in the order to call them.
        stop: of the run.

    Attributes:
        failure: what a callback raised; it and all others are then called no more.
        pausing: the callback that asked the run to stop; empty if none did.
    """

    def __init__(self, callbacks: Callbacks, stop: StopRequest) -> None:
        self._callbacks = [each for each in callbacks if not isinstance(each, (EarlyStopping, str))]
        self._stop = stop
        self.failure: Exception | None = None
        self.pausing = ""
        for each in self._callbacks:
            if not callable(each):
                raise ConfigError(f"a callback is {each!r}, expected a function of one event or plait.EarlyStopping")

    def repeat(self, events: Iterable[Event]) -> None:
        """Tell of what the ledger of a resumed run holds already.

        Raises:
            Exception: what a callback raises.
        """
        for event in events:
            self(event)
            self._stop.asked, self.pausing = False, ""
            self.check()

    def __call__(self, event: Event) -> None:
        """Tell of an event. Never raises: the run is told to stop instead, between two steps of its work."""
        for each in self._callbacks:
            if self.failure is not None:
                return
            try:
                self._heed(each(event), _name_of(each))
            except Exception as error:
                self.failure = error
                self._stop.asked = True

    def check(self) -> None:
        """Raise what a callback raised, if one did, with its own traceback."""
        if self.failure is not None:
            raise self.failure

    def _heed(self, answer: object, name: str) -> None:
        if answer is Stop.PAUSE:
            self._stop.asked, self.pausing = True, name
        elif answer is Stop.END:
            self._stop.ending = self._stop.ending or f"callback {name} asked for it"
        elif answer is not None:
            raise ConfigError(f"callback {name} returned {answer!r}, expected plait.Stop or None")


@dataclass(frozen=True)
class _Named:
    """A callback that settings name: its error is one line."""

    name: str
    part: Callable[[Event], object]

    def __call__(self, event: Event, /) -> Stop | None:
        with located_errors(f"callback '{self.name}' failed"):
            return cast("Stop | None", self.part(event))


def callback_named(text: str) -> Callback:
    """A user's own callback, such as ``my_callbacks:Budget:megabytes=50``; of a class a new object.

    Raises:
        ConfigError: there is none, it cannot be called with an event, or an option is wrong.
    """
    name, options = parse_choice(text)
    what = f"callback '{name}'"
    part = instance_of(find(Kind.CALLBACK, name), what=what)
    if inspect.isfunction(part):
        part = chosen_function(part, ("event",), what=what)
    if not callable(part):
        raise ConfigError(f"{what} is a {type(part).__name__}, expected a function of one event, or a class of such")
    return _Named(name, cast("Callable[[Event], object]", with_options(part, options, what=what)))


@contextmanager
def heard(
    names: str, directory: RunDirectory, stop: StopRequest, on_event: OnEvent = lambda _: None
) -> Generator[OnEvent]:
    """The callbacks that settings name hear the run in the block.

    Args:
        names: of the callbacks, with commas between them.
        directory: of the run; of a resumed one they hear the recorded events first.
        stop: of the run.
        on_event: hears of every event, too.

    Yields:
        What is to be called with every event.

    Raises:
        ConfigError: there is no such callback, or one failed.
        Interrupted: one asked the run to pause.
    """
    hearing = Hearing([callback_named(text) for text in split_choices(names)], stop)
    if names and directory.has_started:
        hearing.repeat(read_events(directory.ledger))

    def hear(event: Event) -> None:
        on_event(event)
        hearing(event)

    try:
        yield hear
    except Interrupted as stopped:
        hearing.check()
        if hearing.pausing:
            raise Interrupted(
                f"callback {hearing.pausing} asked to pause; everything received so far is saved"
            ) from stopped
        raise
    hearing.check()


def _name_of(callback: object) -> str:
    if isinstance(callback, _Named):
        return callback.name
    name = getattr(callback, "__qualname__", type(callback).__qualname__)
    return name.rpartition("<locals>.")[2]


def names_of(callbacks: Callbacks) -> str:
    """Those among them that are given by name, as one text."""
    return ",".join(each for each in callbacks if isinstance(each, str))


def patience_of(callbacks: Callbacks) -> int | None:
    """The patience that an `EarlyStopping` among them asks for; None if there is none.

    Raises:
        ConfigError: two of them differ.
    """
    asked = {each.patience for each in callbacks if isinstance(each, EarlyStopping)}
    if len(asked) > 1:
        both = " and ".join(map(str, sorted(asked)))
        raise ConfigError(f"callbacks have EarlyStopping of patience {both}, expected one")
    return next(iter(asked), None)
