"""What is left of a client: how well an attack tells its training sequences from those that it held out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plait.adapters.peft import load_peft_directory
from plait.config import RunConfig
from plait.features.attacks.membership import attacks, simulated_sides
from plait.rounds.events import MembershipAttack
from plait.rounds.ledger import read_events
from plait.rounds.run_directory import RunDirectory
from plait.simulation.execution import prepare
from plait.simulation.simulation import Simulation
from plait.training.bases import quiet_libraries

_MOST = 500


def residual(
    directory: RunDirectory, settings: RunConfig, client: str, adapters: Mapping[str, Path]
) -> dict[str, MembershipAttack]:
    """Attack adapters on one client's sequences, by their losses against the base's.

    Returns:
        The attack on each; 0.5 is chance.

    Raises:
        PlaitError: data, base or an adapter are not those of the run.
    """
    quiet_libraries()
    run, data = prepare(settings, quiet=True)
    simulation = Simulation(run, data)
    sides = simulated_sides(simulation, run, read_events(directory.ledger), most=_MOST, client=client)
    return {
        name: attacks(simulation.base, load_peft_directory(path), sides, batch_size=settings.batch_size)[0]
        for name, path in adapters.items()
    }
