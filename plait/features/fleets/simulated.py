"""The channel of a simulated fleet: real training, by the virtual clock of its devices."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from plait.features.fleets.fleet import load_fleet
from plait.features.fleets.run import settings_of
from plait.features.fleets.virtual_clock import PASSES_OF_TRAINING, VirtualChannel
from plait.features.fleets.virtual_time import clock_after
from plait.rounds.channel import Channel, TaskParts
from plait.rounds.own_adapter import share_measured
from plait.rounds.stop import StopRequest
from plait.wire.messages import DescribeTask, EvaluateTask, TrainTask, decode_task

if TYPE_CHECKING:
    from plait.simulation.simulation import Simulation


def by_the_clock(simulation: Simulation, stop: StopRequest | None) -> Channel:
    """The channel of a simulation, by the virtual clock of its fleet if it has one."""
    run, config = simulation.run, simulation.run.config
    channel = simulation.direct(0, config.clients, stop)
    if not (path := settings_of(config).fleet):
        return channel
    nodes = {simulation.name(index): index for index in range(config.clients)}
    fleet = load_fleet(path, base_parameters=run.base_parameters)
    clock = clock_after(simulation.directory, fleet, nodes)
    work = partial(work_of, simulation)
    return VirtualChannel(channel, clock, work, seed=config.seed, at_once=config.has_several_devices)


def work_of(simulation: Simulation, node: int, task: TaskParts) -> float:
    """The work of a task in tokens of training, with padding; an evaluation's forward pass is a third of that."""
    settled, ranks = simulation.run.settled, simulation.run.ranks
    text = settled.tasks.to_describe().text
    data = b"".join(task)
    read = decode_task(data, max_bytes=len(data), held=lambda _: text)
    if not isinstance(read, DescribeTask | TrainTask | EvaluateTask):
        return 0.0
    settings = read.settings
    tokens = settings.seq_len * settled.config.learned.sequences
    if isinstance(read, TrainTask):
        examples = settings.steps_taken * settings.batch_size * settings.gradient_accumulation_steps
        return float(examples * tokens)
    own = settled.config.ranks[node % len(settled.config.ranks)]
    spec = ranks.adapters[ranks.track_for(own)].spec
    sequences = simulation.model(node).data_size(spec, settings).held_out_examples
    times = 2 if share_measured(settings) else 1
    return times * sequences * tokens / PASSES_OF_TRAINING
