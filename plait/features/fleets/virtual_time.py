"""Where the virtual clock of a run stands after what is on disk of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from plait.features.fleets.events import Fleet, tasks_of
from plait.features.fleets.virtual_clock import Span, VirtualClock
from plait.rounds.channel import Purpose
from plait.rounds.clock import IN_PROGRESS
from plait.rounds.ledger import read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_view import RunView
from plait.rounds.saved_checkpoint import finished_in_checkpoint


def clock_after(directory: RunDirectory, fleet: Fleet, nodes: Mapping[str, int]) -> VirtualClock:
    """The clock of a run as its finished rounds and evaluations left it."""
    if not directory.has_started:
        return VirtualClock(fleet)
    view = RunView.of(read_events(directory.ledger))
    finished, remembered = finished_in_checkpoint(directory.checkpoints)
    number = finished.round if finished else 0
    evaluated = view.evaluations.get(number)
    now_s = max((each.virtual_s or 0.0 for each in (finished, evaluated) if each), default=0.0)
    spent = [
        Span(
            nodes[each.client], each.device, each.purpose, each.began_s, each.received_s, each.worked_s, each.ended_s,
            each.outcome, each.energy_j,
        )
        for each in tasks_of(view)
        if each.round <= number and (each.purpose == Purpose.TRAIN.value or each.round < number or evaluated)
    ]  # fmt: skip
    tasks = cast("dict[str, dict[str, Any]]", remembered.get(IN_PROGRESS, {}))
    going_on = {nodes[client]: Span(**task) for client, task in tasks.items()}
    return VirtualClock(fleet, now_s=now_s, spent=spent, going_on=going_on)
