"""The lines of a federation's journal: who asked what, and what became of it.

The journal has the form of a run's ledger (`plait.rounds.ledger`): numbered, timed, hash-chained. Events within a run
are in the run's own ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pydantic import ValidationError

from plait.errors import PeerError
from plait.rounds.events import Count, Event
from plait.rounds.ledger import Line


class Outcome(StrEnum):
    """How a run ended by itself."""

    FINISHED = "finished"
    FAILED = "failed"


class RunSubmitted(Event):
    """A run entered the queue.

    Attributes:
        run: its name, and that of its directory.
        number: number of the run, the same after every restart.
        cohort_labels: what its clients must state.
    """

    event = "run_submitted"
    run: str
    by: str
    number: Count
    config: Mapping[str, bool | int | float | str]
    priority: int = 0
    cohort_labels: tuple[str, ...] = ()


class RunBegun(Event):
    """The first clients were welcomed to a run."""

    event = "run_begun"
    run: str


class RunCancelled(Event):
    """An operator took a run out of the queue, or ended it."""

    event = "run_cancelled"
    run: str
    by: str


class RunEnded(Event):
    """A run ended by itself; `detail` says why one failed."""

    event = "run_ended"
    run: str
    outcome: Outcome
    detail: str = ""


ACTS: tuple[type[Event], ...] = (RunSubmitted, RunBegun, RunCancelled, RunEnded)
"""Every kind of line."""

_BY_NAME = {model.event: model for model in ACTS}


def parse_act(line: Line) -> Event | None:
    """The act in one line of a journal; None for a kind that this version does not know.

    Raises:
        PeerError: a field is missing or is not what it must be.
    """
    model = _BY_NAME.get(str(line.get("event")))
    try:
        return None if model is None else model.model_validate(line)
    except ValidationError as error:
        raise PeerError(
            f"line {line.get('seq')} of the journal is no {line.get('event')}, expected its fields"
        ) from error
