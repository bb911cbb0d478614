"""Callbacks that a run's settings name: found, made and called wherever the run is driven."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import cast

from plait.choice import parse_choice, split_choices, with_options
from plait.errors import ConfigError, Interrupted
from plait.own_code import instance_of, located_errors
from plait.own_function import chosen_function
from plait.plugins import Kind, find
from plait.rounds.callbacks import Callback, Hearing, Stop
from plait.rounds.events import Event
from plait.rounds.ledger import OnEvent, read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.stop import StopRequest


class _Named:
    """A callback that settings name: its error is one line."""

    def __init__(self, name: str, part: Callable[[Event], object]) -> None:
        self.__qualname__, self._part = name, part

    def __call__(self, event: Event, /) -> Stop | None:
        with located_errors(f"callback '{self.__qualname__}' failed"):
            return cast("Stop | None", self._part(event))


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
        directory: of the run; of a resumed one they hear the recorded events first.

    Yields:
        What to call with every event.

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
