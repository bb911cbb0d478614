"""What a run's published adapter reveals of membership: attacks that compare trained sequences with held-out ones.

The score is how much lower a sequence's loss is with the adapter than without it, per token; what the base alone makes
of the same sequences is the control, since held-out data are the end of a client's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterSpec, AdapterState
from plait.adapters.peft_reading import PeftAdapter
from plait.config import RunConfig
from plait.data import Dataset
from plait.errors import BaseMismatchError, DataError
from plait.federation import check_data
from plait.ledger.events import Event, MembershipAttack, UpdateReceived
from plait.ledger.run_view import RunView
from plait.rounds.memory import ClientSecret
from plait.run import Run, resolve
from plait.settle import settle
from plait.simulation.execution import prepare
from plait.simulation.simulation import Simulation
from plait.training.examples import Example, order, spread
from plait.training.local_model import PeftLocalModel, data_seed
from plait.training.resident import ResidentBase
from plait.training.trainer import measure_losses
from plait.wire import bounds
from plait.wire.settings import Settings

_LOW_FPR = 0.01
_95 = 1.959964


@dataclass(frozen=True)
class MembersAndOthers:
    """The sequences that an attack is to distinguish; members were trained on, at least once."""

    members: tuple[Example, ...] = ()
    others: tuple[Example, ...] = ()

    @classmethod
    def of(cls, members: Sequence[Example], others: Sequence[Example], most: int) -> MembersAndOthers:
        """At most this many of each, evenly spaced; DataError if there are none of one kind."""
        if not members or not others:
            there = f"{len(members)} trained and {len(others)} held-out sequences"
            raise DataError(f"there are {there}, expected at least 1 of each")
        return cls(spread(members, most), spread(others, most))


def sides_of(
    settings: RunConfig, events: Sequence[Event], own: Dataset | None, *, most: int
) -> tuple[ResidentBase, MembersAndOthers]:
    """A run's base, and the sequences to distinguish; none of a run whose clients brought their data, without `own`."""
    if settings.data:
        run, partitioned = prepare(settings, quiet=True)
        check_data(run, events)
        simulation = Simulation(run, partitioned.partition.shares)
        return simulation.base, simulated_sides(simulation, run, events, most=most)
    run = resolve(settle(settings))
    base = run.load_base()
    return base, _given_sides(base, own, run, most=most) if own else MembersAndOthers()


def simulated_sides(simulation: Simulation, run: Run, recorded: Sequence[Event], *, most: int) -> MembersAndOthers:
    """What the clients of a simulation trained on, by the order of their batches, and what they held out."""
    steps = RunView.after(recorded).asked
    rounds: dict[str, list[int]] = {}
    for event in recorded:
        if isinstance(event, UpdateReceived):
            rounds.setdefault(event.client, []).append(event.round)
    members: list[Example] = []
    others: list[Example] = []
    for index in range(run.config.clients):
        model = simulation.model(index)
        if model.client in rounds:
            secret, to_train = ClientSecret.simulated(run.config.seed, model.client), run.settled.tasks.to_train
            each = [
                secret.seeded(to_train(number, model.client, steps=steps.get((number, model.client), 0)))
                for number in rounds[model.client]
            ]
            members += _trained_on(model, run.ranks.master.spec, each)
            split = model.split(run.ranks.master.spec, _unbounded(each[0]))
            others += (*split.held_out, *split.judge)
    return MembersAndOthers.of(members, others, most)


def _given_sides(base: ResidentBase, dataset: Dataset, run: Run, *, most: int) -> MembersAndOthers:
    """The data of one client: all of its training part may have been trained on."""
    client = PeftLocalModel(
        base,
        "",
        dataset.records,
        held_out=dataset.held_out,
        kind=dataset.kind,
        histogram={},
        group=run.config.group if run.config.group in dataset.column_names else "",
    )
    split = client.split(run.ranks.master.spec, _unbounded(run.settled.tasks.to_describe()))
    return MembersAndOthers.of(split.train, (*split.held_out, *split.judge), most)


def attacks(
    base: ResidentBase, loaded: PeftAdapter, sides: MembersAndOthers, *, batch_size: int
) -> tuple[MembershipAttack, ...]:
    """The attack on an adapter, and what the base alone makes of the same sequences."""
    stated = loaded.base_fingerprint
    if stated not in (None, given := base.fingerprint.hex()):
        raise BaseMismatchError(f"base is {given[:16]}, expected {stated[:16]}, which the adapter was trained on")
    spec, both = loaded.spec(), [*sides.members, *sides.others]
    model = base.with_adapter(spec, AdapterState.from_tensors(spec.layout, loaded.tensors))

    def measure() -> list[float]:
        each = measure_losses(model, both, task=spec.task, pad_token=base.pad_token, batch_size=batch_size)
        return [loss / count for loss, count in zip(each.losses, each.counts, strict=True)]

    adapted = measure()
    with model.disable_adapter():
        alone = measure()
    scores = {
        "loss, against the base's": [before - after for after, before in zip(adapted, alone, strict=True)],
        "control: loss of the base": [-loss for loss in alone],
    }
    count = len(sides.members)
    return tuple(judged(name, values[:count], values[count:]) for name, values in scores.items())


def judged(name: str, members: Sequence[float], others: Sequence[float]) -> MembershipAttack:
    """How well a score distinguishes members from others; at least one of each, finite.

    The interval is that of DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988). An attack that is right about few,
    but certain of them, shows in the true-positive rate at 1 % false positives (Carlini et al., arXiv 2112.03570).
    """
    inside, outside = np.asarray(members, np.float64), np.asarray(others, np.float64)
    # How far up each score stands among those of the other kind.
    above, below = _standing(inside, outside), 1 - _standing(outside, inside)
    variance = sum(float(part.var(ddof=1)) / part.size for part in (above, below) if part.size > 1)
    allowed = math.floor(_LOW_FPR * outside.size)
    threshold = np.sort(outside)[::-1][allowed] if allowed < outside.size else -math.inf
    found = float((inside > threshold).mean())
    return MembershipAttack(name=name, auc=float(above.mean()), margin=_95 * math.sqrt(variance), tpr=found)


def _trained_on(client: PeftLocalModel, spec: AdapterSpec, each: Sequence[Settings]) -> list[Example]:
    seen: set[int] = set()
    for settings in each:
        split = client.split(spec, _unbounded(settings))
        if client.own_trainer is not None or settings.records_are_private:
            # Which ones were drawn is a trainer's own affair, or a client's secret.
            return list(split.train)
        part = settings.part_of(len(split.train))
        seen.update(islice(order(split.train, data_seed(settings.seed, split), spec.task), part.start, part.stop))
    train = client.split(spec, _unbounded(each[0])).train
    return [train[index] for index in sorted(seen)]


def _unbounded(settings: Settings) -> Settings:
    return replace(settings, max_held_out_sequences=bounds.MAX_STEPS)


def _standing(scores: NDArray[np.float64], among: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each score, the part of `among` that is lower, ties counting half."""
    ordered = np.sort(among)
    low, high = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return (low + high) / (2 * among.size)
