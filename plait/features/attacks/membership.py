"""What a run's published adapter says of membership: attacks that compare trained sequences with held-out ones.

An attacker with the adapter has the base too, so the strongest simple score is how much lower a sequence's loss is with
the adapter than without it: the log of a likelihood ratio, per token. The held-out part of a client's data is its end
and may differ from the rest (dates, chapters): what the base alone makes of the same sequences is the control. Attacks
that train models of their own are in `simulations/privacy`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, Task
from plait.adapters.peft_reading import PeftAdapter
from plait.data import Dataset
from plait.errors import BaseMismatchError, DataError
from plait.features.attacks.scores import Attack, exposure
from plait.features.attacks.training.likelihood import Likelihood, likelihoods
from plait.rounds.client_secret import ClientSecret
from plait.rounds.events import ClientReplaced, Event, RoundStarted, UpdateReceived
from plait.run import Run
from plait.simulation.simulation import Simulation
from plait.training.examples import Example, spread, tokenise
from plait.training.learner import order
from plait.training.local_model import PeftLocalModel, data_seed
from plait.training.resident import ResidentBase
from plait.wire import bounds
from plait.wire.settings import Settings


@dataclass(frozen=True)
class Sides:
    """The sequences that an attack is to tell apart.

    Attributes:
        members: trained on, at least once.
    """

    members: tuple[Example, ...]
    others: tuple[Example, ...]

    @classmethod
    def of(cls, members: Sequence[Example], others: Sequence[Example], most: int) -> Sides:
        """At most this many of each, evenly spaced.

        Raises:
            DataError: there are none of one kind.
        """
        if not members or not others:
            raise DataError(
                f"there are {len(members)} trained and {len(others)} held-out sequences, expected at least 1 of each"
            )
        return cls(spread(members, most), spread(others, most))


def simulated_sides(
    simulation: Simulation, run: Run, recorded: Iterable[Event], *, most: int, client: str = ""
) -> Sides:
    """What the clients of a simulation trained on, by the order of their batches, and what they held out.

    Args:
        client: only what this one has; empty for all.

    Raises:
        DataError: no client trained.
    """
    rounds: dict[str, list[int]] = {}
    steps: dict[tuple[int, str], int] = {}
    for event in recorded:
        if isinstance(event, (RoundStarted, ClientReplaced)):
            steps |= event.asked
        elif isinstance(event, UpdateReceived):
            rounds.setdefault(event.client, []).append(event.round)
    members: list[Example] = []
    others: list[Example] = []
    for index in range(run.config.clients):
        model = simulation.model(index)
        if model.client in rounds and client in ("", model.client):
            secret = ClientSecret.simulated(run.config.seed, model.client)
            each = [
                secret.seeded(
                    run.settled.tasks.to_train(number, model.client, steps=steps.get((number, model.client), 0))
                )
                for number in rounds[model.client]
            ]
            members += _trained_on(model, run.ranks.master.spec, each)
            others += model.split(run.ranks.master.spec, _unbounded(each[0])).held_out
    return Sides.of(members, others, most)


def given_sides(base: ResidentBase, dataset: Dataset, run: Run, *, most: int) -> Sides:
    """The data of one client: all of its training part may have been trained on.

    Raises:
        DataError: the data does not fit the run.
    """
    client = PeftLocalModel(
        base, "", dataset.records, held_out=dataset.held_out, kind=dataset.kind, histogram={}, tokenise=tokenise
    )
    split = client.split(run.ranks.master.spec, _unbounded(run.settled.tasks.to_describe()))
    return Sides.of(split.train, split.held_out, most)


def attacks(base: ResidentBase, loaded: PeftAdapter, sides: Sides, *, batch_size: int) -> tuple[Attack, ...]:
    """Every attack on an adapter, and the same scores by the base alone.

    Raises:
        BaseMismatchError: the adapter was trained on another base.
    """
    both = [*sides.members, *sides.others]
    adapted, alone = _with_and_without(base, loaded, both, batch_size)
    scores: dict[str, list[float]] = {
        "loss, against the base's": [before.loss - after.loss for after, before in zip(adapted, alone, strict=True)]
    }
    if all(each.min_k is not None for each in adapted):
        after, before = ([each.min_k or 0.0 for each in found] for found in (adapted, alone))
        scores["Min-K%++"] = after
        scores["Min-K%++, against the base's"] = [x - y for x, y in zip(after, before, strict=True)]
        scores["control: Min-K%++ of the base"] = before
    scores["control: loss of the base"] = [-each.loss for each in alone]
    count = len(sides.members)
    return tuple(Attack.of(name, values[:count], values[count:]) for name, values in scores.items())


@dataclass(frozen=True)
class Exposed:
    """Exposure of the canaries that occur equally often in the data, in bits; 1 is chance.

    Attributes:
        adapter: mean exposure by the adapter.
        base: the same by the base alone.
    """

    times: int
    canaries: int
    adapter: float
    base: float


def exposures(
    base: ResidentBase, loaded: PeftAdapter, candidates: Dataset, texts: Iterable[str], *, batch_size: int
) -> tuple[Exposed, ...]:
    """How well planted canaries are remembered, by how often they are in the data.

    Raises:
        DataError: none of them is in the data, or all are, or the adapter is a classifier.
    """
    if loaded.spec().task is not Task.CAUSAL_LM:
        raise DataError("the adapter is a classifier, expected a language model: canaries are texts to complete")
    canaries = [record.content for record in candidates.records]
    joined = "\n".join(texts)
    times = [joined.count(canary) for canary in canaries]
    if not any(times) or all(times):
        raise DataError(
            f"{sum(map(bool, times))} of {len(times)} canaries are in the data, expected some to be and others not"
        )
    examples = [_whole(base, canary) for canary in canaries]
    adapted, alone = _with_and_without(base, loaded, examples, batch_size)

    def mean(found: Sequence[Likelihood], count: int) -> float:
        others = [each.loss for each, number in zip(found, times, strict=True) if not number]
        bits = [exposure(each.loss, others) for each, number in zip(found, times, strict=True) if number == count]
        return sum(bits) / len(bits)

    return tuple(
        Exposed(count, times.count(count), mean(adapted, count), mean(alone, count))
        for count in sorted(set(times) - {0})
    )


def _trained_on(client: PeftLocalModel, spec: AdapterSpec, each: Sequence[Settings]) -> list[Example]:
    seen: set[int] = set()
    for settings in each:
        split = client.split(spec, _unbounded(settings))
        if client.own_trainer is not None or settings.records_are_private:
            # Which ones were drawn is a trainer's own affair, or a client's secret.
            return list(split.train)
        visits = settings.steps_taken * settings.batch_size * settings.gradient_accumulation_steps
        seen.update(islice(order(split.train, data_seed(settings.seed, split), spec.task), visits))
    train = client.split(spec, _unbounded(each[0])).train
    return [train[index] for index in sorted(seen)]


def _unbounded(settings: Settings) -> Settings:
    return replace(settings, max_held_out_sequences=bounds.MAX_STEPS)


def _whole(base: ResidentBase, text: str) -> Example:
    """A text as one sequence: packed with others it would have a context."""
    ids = np.asarray(base.tokenizer([text], add_special_tokens=False)["input_ids"][0], np.int32)
    return Example(ids, ids)


def _with_and_without(
    base: ResidentBase, loaded: PeftAdapter, examples: Sequence[Example], batch_size: int
) -> tuple[list[Likelihood], list[Likelihood]]:
    stated = loaded.base_fingerprint
    if stated not in (None, base.fingerprint.hex()):
        raise BaseMismatchError(
            f"base is {base.fingerprint.hex()[:16]}, expected {stated[:16]}, which the adapter was trained on"
        )
    spec = loaded.spec()
    model = base.carrying(spec, AdapterState.from_tensors(spec.layout, loaded.tensors))

    def found() -> list[Likelihood]:
        return likelihoods(model, examples, task=spec.task, pad_token=base.pad_token, batch_size=batch_size)

    adapted = found()
    with model.disable_adapter():
        return adapted, found()
