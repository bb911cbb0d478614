"""What a user's own callback must do; `plait check-plugin` runs these."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from plait.own_code import BrokenError, Check
from plait.rounds.callbacks import Callback, Stop
from plait.rounds.events import Adapter, Base, Event, Resumed, RunFinished, RunStarted


class _Unknown(Event):
    """An event of a later version."""

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
