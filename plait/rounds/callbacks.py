"""Callbacks: functions that receive a run's events as they are recorded, and may pause or end it.

They are called in the run's own thread, in the order of the ledger, and block the run. If one raises, the run stops
where it can be resumed, and the caller gets the callback's own error.
"""

import importlib.util
import inspect
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Annotated, Protocol, cast

from pydantic import Field

from plait.errors import ConfigError, RunInterrupted
from plait.ledger.events import Adapter, Base, Evaluated, Event, Resumed, RunFinished, RunStarted
from plait.ledger.ledger import OnEvent, read_events
from plait.ledger.watch import change_since, judged
from plait.own_code import BrokenError, Check, chosen_function, instance_of, located_errors
from plait.plugins import Kind, find
from plait.rounds.channel import StopRequest
from plait.rounds.run_directory import RunDirectory
from plait.settings.choice import parse_choice, split_choices, with_options


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


@dataclass
class EarlyStopping:
    """End the run after `patience` evaluations without a lower held-out loss, or a better metric (`--select-by`).

    Losses are compared client by client where both evaluations have them (`plait.ledger.watch.change_since`).
    """

    patience: Annotated[int, Field(ge=1, description="evaluations without a lower loss")] = 1

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ConfigError(f"patience of EarlyStopping is {self.patience}, expected at least 1")
        self._best: Evaluated | None = None
        self._by = ""
        self._idle = 0

    def __call__(self, event: Event, /) -> Stop | None:
        """Count the evaluations since the best one."""
        if isinstance(event, RunStarted):
            self._by = str(event.config.get("select-by", ""))
        if not isinstance(event, Evaluated):
            return None
        event = judged(event, self._by)
        before = self._best
        change = change_since(before, event) if before else None
        if change.mean < 0 if change else before is None or event.loss < before.loss:
            self._best, self._idle = event, 0
        else:
            self._idle += 1
        return Stop.END if self._idle >= self.patience else None


Callbacks = Sequence[Callback | str]
"""What `callbacks` of a run may be; a text names some, as the settings do."""

TRACKERS = ("mlflow", "tensorboard", "trackio", "wandb")
"""Libraries that settings name among callbacks, and that follow the ledger (`plait.report.trackers`)."""


class CallbackRunner:
    """Calls callbacks with the events of one run, and passes what they ask on to it."""

    def __init__(self, callbacks: Callbacks, stop: StopRequest) -> None:
        self._callbacks = [each for each in callbacks if not isinstance(each, str)]
        self._stop = stop
        self.failure: Exception | None = None
        self.pausing = ""
        for each in self._callbacks:
            if not callable(each):
                raise ConfigError(f"a callback is {each!r}, expected a function of one event")

    def repeat(self, events: Iterable[Event]) -> None:
        """Repeat the events that the ledger of a resumed run already holds."""
        for event in events:
            self(event)
            self._stop.asked, self.pausing = False, ""
            self.check()

    def __call__(self, event: Event) -> None:
        """Pass an event on. Never raises: the run is asked to stop instead, between two steps of its work."""
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


def trackers_of(names: str) -> tuple[str, ...]:
    """The trackers that settings name among callbacks."""
    return tuple(name for name in split_choices(names) if name in TRACKERS)


def check_callbacks(names: str) -> None:
    """Refuse callbacks that are not there, and trackers whose library is missing."""
    for text in split_choices(names):
        name, options = parse_choice(text)
        if name not in TRACKERS:
            callback_named(text)
        elif options:
            raise ConfigError(f"callbacks name '{text}', but {name} has no options; it reads its own settings")
        elif importlib.util.find_spec(name) is None:
            raise ConfigError(f"callbacks name '{name}', but the package is not installed; pip install {name}")


def callback_named(text: str) -> Callback:
    """A user's own callback, such as ``my_callbacks:Budget:megabytes=50``; of a class a new object.

    Its error is one line.
    """
    name, options = parse_choice(text)
    what = f"callback '{name}'"
    part = instance_of(find(Kind.CALLBACK, name, known=TRACKERS), what=what)
    if inspect.isfunction(part):
        part = chosen_function(part, ("event",), what=what)
    if not callable(part):
        raise ConfigError(f"{what} is a {type(part).__name__}, expected a function of one event, or a class of such")
    chosen = cast("Callable[[Event], Stop | None]", with_options(part, options, what=what))

    def named(event: Event, /) -> Stop | None:
        with located_errors(f"{what} failed"):
            return chosen(event)

    named.__qualname__ = name
    return named


@contextmanager
def heard(names: str, directory: RunDirectory, stop: StopRequest, on_event: OnEvent) -> Generator[OnEvent]:
    """Run the callbacks that settings name in the block; in a resumed run they receive the recorded events first.

    Raises:
        ConfigError: there is no such callback, or one failed.
        RunInterrupted: one asked the run to pause.
    """
    named = [callback_named(text) for text in split_choices(names) if text not in TRACKERS]
    hearing = CallbackRunner(named, stop)
    if named and directory.has_started:
        hearing.repeat(read_events(directory.ledger))

    def hear(event: Event) -> None:
        on_event(event)
        hearing(event)

    try:
        yield hear
    except RunInterrupted as stopped:
        hearing.check()
        if hearing.pausing:
            raise RunInterrupted(
                f"callback {hearing.pausing} asked to pause; everything received so far is saved"
            ) from stopped
        raise
    hearing.check()


class _Unknown(Event):
    event = "of_a_later_version"


_RUN: tuple[Event, ...] = (
    RunStarted(
        seed=0, config={"rank": 8}, base=Base(name="tiny"), adapter=Adapter(trainable_parameters=9), full_model_bytes=36
    ),
    Resumed(round=1),
    RunFinished(rounds=2, wall_s=1.0, peak_rss_bytes=1, adapter="", kept_round=2),
)


def _answers(make: Callable[[], Callback], events: tuple[Event, ...]) -> None:
    callback = make()
    for event in events:
        answer = cast("object", callback(event))
        if answer is not None and not isinstance(answer, Stop):
            raise BrokenError(f"answered {event.event} with {answer!r}, expected plait.Stop or None")


CALLBACK_CHECKS: tuple[Check[Callable[[], Callback]], ...] = (
    Check("answers the events of a run with plait.Stop or None", lambda make: _answers(make, _RUN)),
    Check("takes events that it does not know", lambda make: _answers(make, (_Unknown(),))),
    Check("hears a resumed run from its start", lambda make: _answers(make, (*_RUN[:1], *_RUN))),
)
"""The contract of a callback; given what makes a new one."""
