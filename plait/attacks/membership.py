"""What a run's published adapter reveals of membership: attacks that compare trained sequences with held-out ones.

The score is how much lower a sequence's loss is with the adapter than without it, per token; what the base alone makes
of the same sequences is the control, since held-out data are the end of a client's.

Of a group, such as a person, it is the mean over its records. The hash of its name decides whether a group is held out
(`plait.training.holding_out`). Of the larger side so many are left out by chance that this is a fair coin, and guesses
about groups prove a lower bound of epsilon as those about canaries do. How many groups a client has is taken as known.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterSpec
from plait.adapters.peft_reading import PeftAdapter
from plait.attacks.canary import Audit
from plait.config import RunConfig
from plait.data import Dataset
from plait.data.records import groups_of
from plait.errors import BaseMismatchError, ConfigError, DataError
from plait.federation import check_data
from plait.ledger.events import Event, MembershipAttack, UpdateReceived
from plait.ledger.run_view import RunView
from plait.rounds.data_journal import ClientSecret
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
_PART_GUESSED = 2 / 3
DELTA = 1e-5
"""At which groups' epsilon is bounded, where a run states none."""

Unit = tuple[Example, ...]
"""A sequence, or all those of a group."""

_ATTACK, _CONTROL = "loss, against the base's", "control: loss of the base"


@dataclass(frozen=True)
class MembersAndOthers:
    """What an attack is to distinguish; of members every sequence, or any of a group, was trained on at least once."""

    members: tuple[Unit, ...] = ()
    others: tuple[Unit, ...] = ()

    @classmethod
    def of(cls, members: Sequence[Example], others: Sequence[Example], most: int) -> "MembersAndOthers":
        """At most this many of each, evenly spaced; DataError if there are none of one kind."""
        if not members or not others:
            there = f"{len(members)} trained and {len(others)} held-out sequences"
            raise DataError(f"there are {there}, expected at least 1 of each")
        return cls(*(tuple((each,) for each in spread(side, most)) for side in (members, others)))


def sides_of(
    settings: RunConfig, events: Sequence[Event], own: Dataset | None, *, most: int, group: str = ""
) -> tuple[ResidentBase, MembersAndOthers]:
    """A run's base, and the sequences to distinguish, or the groups by a column.

    There are none of a run whose clients brought their data, without `own`.
    """
    if settings.data:
        if group not in ("", settings.group):
            held_out = f"by '{settings.group}'" if settings.group else "without groups"
            raise ConfigError(f"group is '{group}', but the run held data out {held_out}")
        run, partitioned = prepare(settings, quiet=True)
        check_data(run, events)
        simulation = Simulation(run, partitioned.partition.shares)
        if not group:
            return simulation.base, simulated_sides(simulation, run, events, most=most)
        trained = {event.client for event in events if isinstance(event, UpdateReceived)}
        clients = [simulation.model(index) for index in range(run.config.clients) if simulation.name(index) in trained]
        return simulation.base, groups_apart(clients, run, most=most)
    run = resolve(settle(settings))
    base = run.load_base()
    if own is None:
        return base, MembersAndOthers()
    client = _given_client(base, own, run, group)
    return base, groups_apart([client], run, most=most) if group else _given_sides(client, run, most=most)


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


def groups_apart(clients: Sequence[PeftLocalModel], run: Run, *, most: int) -> MembersAndOthers:
    """Groups of the training parts, of which all may have been trained on, and held-out ones; at most twice `most`.

    Each record is a sequence by itself, and none is left out because others repeat it. A group at several clients has
    an epsilon at each, and is left out.
    """
    fraction, settings = run.config.held_out_fraction, _unbounded(run.settled.tasks.to_describe())
    apart = replace(settings, record_delta=settings.record_delta or DELTA)
    found: dict[str, list[tuple[bool, Unit]]] = {}
    for client in clients:
        if client.held_out:
            raise ConfigError("the data say what is held out, so no chance decided it: leave --group out")
        names = groups_of(client.records, client.group)
        split = client.split(run.ranks.master.spec, apart)
        here: dict[tuple[str, bool], Unit] = {}
        for is_member, part in ((True, split.train), (False, (*split.held_out, *split.judge))):
            for example in part:
                key = names[example.record], is_member
                here[key] = (*here.get(key, ()), example)
        for (name, is_member), examples in here.items():
            found.setdefault(name, []).append((is_member, examples))
    odds = {True: fraction / (1 - fraction), False: (1 - fraction) / fraction}
    chance = np.random.default_rng(0)
    fair = [units[0] for units in found.values() if len(units) == 1 and chance.random() < odds[units[0][0]]]
    chosen = [fair[place] for place in chance.permutation(len(fair))[: 2 * most]]
    members, others = (tuple(unit for is_member, unit in chosen if is_member is side) for side in (True, False))
    if not members or not others:
        there = f"{len(members)} trained and {len(others)} held-out groups that are at one client alone"
        raise DataError(f"there are {there}, expected at least 1 of each")
    return MembersAndOthers(members, others)


def _given_client(base: ResidentBase, dataset: Dataset, run: Run, group: str) -> PeftLocalModel:
    if group:
        dataset.check_column(group, "group")
    elif run.config.group in dataset.column_names:
        group = run.config.group
    return PeftLocalModel(
        base, "", dataset.records, held_out=dataset.held_out, kind=dataset.kind, histogram={}, group=group
    )


def _given_sides(client: PeftLocalModel, run: Run, *, most: int) -> MembersAndOthers:
    """The data of one client: all of its training part may have been trained on."""
    split = client.split(run.ranks.master.spec, _unbounded(run.settled.tasks.to_describe()))
    return MembersAndOthers.of(split.train, (*split.held_out, *split.judge), most)


def attacks(
    base: ResidentBase, loaded: PeftAdapter, sides: MembersAndOthers, *, batch_size: int, delta: float = DELTA
) -> tuple[tuple[MembershipAttack, ...], Audit]:
    """The attack on an adapter, and what the base alone makes of the same; and what its guesses prove at a delta.

    They prove it where a fair coin decided between members and others, as of groups.
    """
    stated = loaded.base_fingerprint
    if stated not in (None, given := base.fingerprint.hex()):
        raise BaseMismatchError(f"base is {given[:16]}, expected {stated[:16]}, which the adapter was trained on")
    spec, units = loaded.spec(), [*sides.members, *sides.others]
    both = [example for unit in units for example in unit]
    sizes = np.array([len(unit) for unit in units])
    model = base.with_adapter(spec, loaded.state)

    def measure() -> NDArray[np.float64]:
        each = measure_losses(model, both, task=spec.task, pad_token=base.pad_token, batch_size=batch_size)
        losses = np.asarray(each.losses) / np.asarray(each.counts)
        return np.add.reduceat(losses, np.cumsum(sizes) - sizes) / sizes

    adapted = measure()
    with model.disable_adapter():
        alone = measure()
    scores, count = {_ATTACK: alone - adapted, _CONTROL: -alone}, len(sides.members)
    # Members come first, so that of equal scores those of members are guessed to be the lower ones.
    proven = Audit.of(scores[_ATTACK], np.arange(len(units)) < count, part=_PART_GUESSED, delta=delta)
    return tuple(judged(name, values[:count], values[count:]) for name, values in scores.items()), proven


def judged(
    name: str, members: Sequence[float] | NDArray[np.float64], others: Sequence[float] | NDArray[np.float64]
) -> MembershipAttack:
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
