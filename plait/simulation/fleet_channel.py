"""The channel of a simulated fleet: its clock as the ledger left it, and the work of each task."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from plait.ledger.fleet import Fleet, tasks_of
from plait.ledger.ledger import read_events
from plait.ledger.run_view import RunView
from plait.rounds.channel import IN_PROGRESS, Channel, Purpose, StopRequest, TaskParts
from plait.rounds.checkpoint import finished_in_checkpoint
from plait.rounds.fleet import load_fleet
from plait.rounds.hooks import share_measured
from plait.rounds.run_directory import RunDirectory
from plait.simulation.virtual_clock import PASSES_OF_TRAINING, Span, VirtualChannel, VirtualClock
from plait.wire.messages import DescribeTask, EvaluateTask, TrainTask, decode_task

if TYPE_CHECKING:
    from plait.simulation.simulation import Simulation


def by_the_clock(simulation: Simulation, stop: StopRequest | None) -> Channel:
    """The channel of a simulation, by the virtual clock of its fleet."""
    run, config = simulation.run, simulation.run.config
    channel = simulation.direct(stop)
    nodes = {simulation.name(index): index for index in range(config.clients)}
    fleet = load_fleet(config.fleet, base_parameters=run.base_parameters)
    clock = clock_after(simulation.directory, fleet, nodes)
    return VirtualChannel(
        channel, clock, partial(_work_of, simulation), seed=config.seed, at_once=config.has_several_devices
    )


def _work_of(simulation: Simulation, node: int, task: TaskParts) -> float:
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
