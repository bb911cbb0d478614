"""Train the baselines of a simulated run on the same clients, and put them into its ledger."""

from __future__ import annotations

from collections.abc import Callable

from plait.aggregation import geometry_of
from plait.config import RunConfig
from plait.plan import blueprint_of, settings_of
from plait.rounds.beginning import begun
from plait.rounds.evaluation import mean_loss
from plait.rounds.events import Reference
from plait.rounds.ledger import Ledger, read_events
from plait.rounds.recorded import Recorded
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import initial_state
from plait.rounds.tracks import RankedAdapter, Ranks
from plait.simulation.clients import client_name, resident_base, simulated_client
from plait.stacking import beginning_of
from plait.training.reference import train_reference


def add_references(directory: RunDirectory, config: RunConfig, *, progress: Callable[[str], None]) -> None:
    """Train every baseline that `config` asks for and the run's ledger lacks, and append its result there."""
    events = read_events(directory.ledger)
    there = {event.kind for event in events if isinstance(event, Reference)}
    missing = [kind for kind in config.references if kind not in there]
    if not missing:
        return
    base = resident_base(config)
    blueprint = blueprint_of(config, base.directory)
    geometry = geometry_of(blueprint.spec)
    master = RankedAdapter(config.rank, blueprint.spec, geometry, blueprint.initial)
    state = begun(
        initial_state(bytes(16), Ranks((master,))),
        beginning_of(config, master, base.fingerprint.hex()),
        Ranks((master,)),
        base.fingerprint,
    )
    took_part = Recorded.of(events).clients
    named = ((client_name(config, index), index) for index in range(config.clients))
    clients = {name: simulated_client(config, index) for name, index in named if name in took_part}
    base.stand_on(state.base.moved, geometry)
    ledger = Ledger(directory.ledger)
    try:
        for kind in missing:
            reference = train_reference(
                kind,
                base,
                dict(sorted(clients.items())),
                spec=blueprint.spec,
                initial=state.adapter,
                settings=settings_of(config),
                steps=config.rounds * config.local_steps,
                seed=config.seed,
                progress=progress,
            )
            mean = mean_loss(reference.by_client)
            ledger.append(
                Reference(
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
            )
    finally:
        ledger.close()
