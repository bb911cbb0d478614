"""A run that has not begun, by the virtual clock of its fleet: how long it will take."""

from __future__ import annotations

from functools import partial

from plait.config import RunConfig
from plait.features.fleets.events import Fleet
from plait.features.fleets.fleet import load_fleet
from plait.features.fleets.run import settings_of
from plait.features.fleets.virtual_clock import PASSES_OF_TRAINING, VirtualChannel, VirtualClock
from plait.rounds.channel import Purpose, TaskParts
from plait.simulation.planned_run import Planned


def by_the_clock(planned: Planned, config: RunConfig) -> None:
    """Let a planned run go by the clock of the fleet that its settings name, if they do."""
    if path := settings_of(config).fleet:
        on_devices(planned, load_fleet(path, base_parameters=planned.base_parameters))


def on_devices(planned: Planned, fleet: Fleet) -> None:
    """Let a planned run go by the clock of these devices."""
    work = partial(work_of, planned)
    planned.channel = VirtualChannel(planned.channel, VirtualClock(fleet), work, seed=planned.plan.seed)


def work_of(planned: Planned, node: int, task: TaskParts) -> float:
    """The work of a task in tokens of training; a client has as many held-out sequences as are evaluated at most."""
    del task
    (purpose, number), settings = planned.asked, planned.plan.settings
    if purpose is Purpose.TRAIN:
        examples = planned.steps[node] * settings.batch_size * settings.gradient_accumulation_steps
        return float(examples * planned.example_tokens)
    times = 2 if number == planned.plan.rounds and settings.own_share else 1
    return times * settings.max_held_out_sequences * planned.example_tokens / PASSES_OF_TRAINING
