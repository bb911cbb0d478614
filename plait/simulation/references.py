"""Train the baselines of a simulated run on the same clients, and record them in its ledger."""

from __future__ import annotations

from collections.abc import Callable

from plait.federation import beginning_of, check_data
from plait.ledger.events import Reference
from plait.ledger.ledger import Ledger, OnEvent, read_events
from plait.ledger.run_view import RunView
from plait.rounds.broadcasts import starting_state
from plait.rounds.channel import StopRequest
from plait.rounds.evaluation import mean_loss
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import initial_state
from plait.run import Run
from plait.simulation.simulation import Simulation
from plait.training.baselines import BaselineResult as Trained
from plait.training.baselines import Baselines


def add_references(
    directory: RunDirectory,
    run: Run,
    simulation: Simulation,
    *,
    on_event: OnEvent = lambda _: None,
    stop: StopRequest | None = None,
    progress: Callable[[str], None],
) -> None:
    """Train every requested baseline that the run's ledger lacks, and record its result there.

    A stop between two steps raises RunInterrupted; the baseline in training is then lost.
    """
    stop = stop or StopRequest()

    def step(text: str) -> None:
        stop.check()
        progress(text)

    config, master = run.config, run.ranks.master
    events = read_events(directory.ledger)
    check_data(run, events)
    view = RunView.of(events)
    missing = [kind for kind in config.references if kind not in view.references]
    if not missing:
        return
    codec, ranks = run.settled.plan.settings.codec, run.ranks
    state = starting_state(initial_state(bytes(16), ranks), beginning_of(run), ranks, run.base_fingerprint, codec=codec)
    named = ((simulation.name(index), index) for index in range(config.clients))
    clients = {name: simulation.model(index) for name, index in named if name in view.clients}
    ledger = Ledger(directory.ledger, on_event=on_event)
    try:
        baselines = Baselines(
            base=simulation.base,
            clients=dict(sorted(clients.items())),
            spec=master.spec,
            initial=state.adapter,
            settings=run.settled.plan.settings,
            steps=config.rounds * config.local_steps,
            seed=config.seed,
            progress=step,
        )
        for kind in missing:
            ledger.append(_recorded(kind, baselines.trained(kind)))
    finally:
        ledger.close()


def _recorded(kind: str, reference: Trained) -> Reference:
    mean = mean_loss(reference.by_client)
    return Reference(
        kind=kind,
        held_out_loss=mean.loss,
        everywhere=reference.everywhere,
        by_client={name: loss.loss for name, loss in reference.by_client.items()},
        steps=reference.steps,
        batch_size=reference.batch_size,
        wall_s=round(reference.wall_s, 3),
        loss_margin=mean.loss_margin,
        change=mean.change,
        change_margin=mean.change_margin,
        accuracy=mean.accuracy,
        accuracy_interval=mean.accuracy_interval,
    )
