"""Callbacks: functions that receive a run's events as they are recorded, and may pause or end it.

A callback is called in the run's own thread with the typed events of `plait.rounds.events`, in the order of the ledger.
Callbacks block the run. If one raises, the run stops where it can be resumed, and the caller gets the callback's own
error. Knows nothing of what callbacks do, nor of those that settings name (`named_callbacks`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from plait.errors import ConfigError
from plait.rounds.events import Event
from plait.rounds.stop import StopRequest


class Stop(Enum):
    """What a callback can request.

    Attributes:
        PAUSE: stop before the next client starts to work; `plait.resume` continues the run.
        END: end the run after its current round, evaluated and published, as if that were its last.
    """

    PAUSE = auto()
    END = auto()


class Callback(Protocol):
    """Called with every event of a run once it is recorded.

    It receives the whole run, from the first event on: a resumed run first repeats the recorded events, so that counts
    are right. In answer to these, only `Stop.END` has an effect.
    """

    def __call__(self, event: Event, /) -> Stop | None:
        """Receive an event; returns what the run should do, None to continue."""
        ...


@dataclass(frozen=True)
class EarlyStopping:
    """End the run after `patience` evaluations without a lower held-out loss.

    This is the setting `patience` of a run. The run records it, so you need not pass it to `plait.resume`.

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
        """Repeat the events that the ledger of a resumed run already holds.

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


def _name_of(callback: object) -> str:
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
