"""Attacks on a finished run, as `plait audit` makes them: on the members of its data, and on its noise.

Knows no terminal. What is recorded of it is the caller's decision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait.adapters import BaseReference
from plait.adapters.peft_reading import load_peft_directory
from plait.config import RunConfig
from plait.data import as_dataset
from plait.features.attacks.membership import Exposed, Sides, attacks, exposures, given_sides, simulated_sides
from plait.features.attacks.scores import Attack
from plait.federation import check_data
from plait.rounds.events import Audited, MembershipAttack
from plait.rounds.ledger import read_events
from plait.rounds.run_directory import RunDirectory
from plait.run import Run, resolve
from plait.settle import settle
from plait.simulation.execution import prepare
from plait.simulation.simulation import Simulation
from plait.training.bases import quiet_libraries
from plait.training.resident import ResidentBase

if TYPE_CHECKING:
    from plait.features.attacks.canary import Audit


@dataclass(frozen=True)
class Attacked:
    """What attacks on a run found.

    Attributes:
        audit: what canary clients prove; None without differential privacy.
        promised: epsilon that the run has spent; None likewise.
        exposed: canaries in the data, by how often each is there; empty where none were given.
    """

    event: Audited
    audit: Audit | None
    promised: float | None
    exposed: tuple[Exposed, ...]
    base: BaseReference


@dataclass(frozen=True)
class _Opened:
    """A run's base, the sequences to tell apart, and the texts of its data."""

    run: Run
    base: ResidentBase
    sides: Sides | None
    texts: tuple[str, ...]


def attack(
    directory: RunDirectory,
    settings: RunConfig,
    *,
    data: str = "",
    columns: str = "",
    split: str = "",
    canaries: str = "",
    sequences: int,
    progress: Callable[[str], None],
) -> Attacked:
    """Attack a finished run.

    Args:
        data: of one client, where the clients brought their own; empty to attack the noise alone.

    Raises:
        PlaitError: data, base or adapter are not those of the run.
    """
    quiet_libraries()
    progress("loading the run's base and data")
    opened = _open(directory, settings, data, columns, split, sequences)
    loaded = load_peft_directory(directory.adapter)
    found: tuple[Attack, ...] = ()
    if opened.sides:
        progress("telling trained sequences from held-out ones")
        found = attacks(opened.base, loaded, opened.sides, batch_size=settings.batch_size)
    exposed: tuple[Exposed, ...] = ()
    if canaries:
        progress("asking for canaries")
        candidates = as_dataset(canaries)
        exposed = exposures(opened.base, loaded, candidates, opened.texts, batch_size=settings.batch_size)
    proven: Audit | None = None
    promised: float | None = None
    if vars(opened.run.config).get("dp") == "client":
        from plait.features.attacks.canary import proven_and_promised

        progress("letting canary clients take part")
        proven, promised = proven_and_promised(opened.run.config, read_events(directory.ledger))
    event = Audited(
        adapter=loaded.digest,
        members=len(opened.sides.members) if opened.sides else 0,
        others=len(opened.sides.others) if opened.sides else 0,
        attacks=tuple(MembershipAttack(name=x.name, auc=x.auc, margin=x.margin, tpr=x.tpr) for x in found),
        exposure=max((each.adapter for each in exposed if each.times), default=None),
        epsilon_bound=proven.bound if proven else None,
        epsilon_most=proven.most if proven else None,
        canaries=proven.canaries if proven else 0,
    )
    return Attacked(event, proven, promised, exposed, opened.run.base.reference)


def _open(directory: RunDirectory, settings: RunConfig, data: str, columns: str, split: str, sequences: int) -> _Opened:
    events = read_events(directory.ledger)
    if settings.data:
        run, partitioned = prepare(settings, quiet=True)
        check_data(run, events)
        simulation = Simulation(run, partitioned)
        texts = tuple(record.content for record in partitioned.dataset.records)
        return _Opened(run, simulation.base, simulated_sides(simulation, run, events, most=sequences), texts)
    run = resolve(settle(settings))
    base = run.load_base()
    if not data:
        return _Opened(run, base, None, ())
    dataset = as_dataset(data, columns=columns, split=split)
    texts = tuple(record.content for record in dataset.records)
    return _Opened(run, base, given_sides(base, dataset, run, most=sequences), texts)
