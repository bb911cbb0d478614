"""Flower's own strategies as rules: Krum, Multi-Krum and Bulyan, and whatever else has an ``aggregate_train``.

A strategy sees plait's validated deltas as replies of one flat array each, and what it makes of them is the step. The
deltas are widened to float64 first: Flower computes distances through inner products, which in float32 lose the small
differences of honest clients and overflow on a liar's large numbers. How many bad clients a strategy is to stand
follows from the number of updates. A strategy is made anew for every round, so one that keeps something from round to
round (FedAdam, say) is none for this: plait has server optimizers instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, Metadata, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedMedian, Krum, MultiKrum, Strategy
from numpy.typing import NDArray

from plait.adapters import Float32
from plait.aggregation import (
    BOTH_SIDES,
    RULES,
    Accumulator,
    Exactness,
    Geometry,
    Handing,
    Outcome,
    RoundContext,
    Rule,
    Side,
)
from plait.aggregation.rule import Subject
from plait.aggregation.stacked import Stacked
from plait.aggregation.traffic import Traffic, parameters

_ARRAYS, _DELTA, _METRICS, _WEIGHT = "arrays", "delta", "metrics", "num-examples"


@dataclass(frozen=True)
class FlowerRule:
    """A strategy as a rule.

    Attributes:
        name: what the user gives to ``--rule``.
        title: the paper.
        computes: one line.
        tolerates: from a number of updates to how many bad ones among them the strategy stands.
        strategy: from the number of updates and of bad ones to the strategy.
        least_clients: the smallest cohort in which it stands one.
    """

    name: str
    title: str
    computes: str
    tolerates: Callable[[int], int]
    strategy: Callable[[int, int], Strategy]
    least_clients: int = 1

    subject = Subject.TENSORS
    exactness = Exactness.INEXACT
    linear = False
    mixed_ranks = False
    higher_ranks = False
    moves_base = False
    needs_all = True
    continuous = True
    personal: Side | None = None
    handing = Handing.SLICE

    def trained(self, round_number: int) -> frozenset[Side]:  # noqa: ARG002 (the same in every round)
        """Both sides."""
        return BOTH_SIDES

    def begin(self, context: RoundContext) -> Accumulator:
        """Start a round."""
        return Stacked(context, self._combine)

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:  # noqa: ARG002
        """The adapter both ways."""
        return Traffic(parameters(client), parameters(client))

    def _combine(self, stacked: Stacked) -> Outcome:
        updates = len(stacked.deltas)
        tolerated = self.tolerates(updates)
        strategy = self.strategy(updates, tolerated)
        replies = [
            _reply(number, delta, weight)
            for number, (delta, weight) in enumerate(zip(stacked.deltas, stacked.weights, strict=True), start=1)
        ]
        with _quiet():
            arrays, _ = strategy.aggregate_train(stacked.context.round, replies)
        if arrays is None:
            raise ValueError(f"{type(strategy).__name__} made nothing of {updates} updates")
        step: NDArray[np.float64] = arrays[_DELTA].numpy()
        return stacked.outcome(step, tolerated_clients=float(tolerated))


def flower_rule(name: str) -> Rule | None:
    """The rule of this name, or None where Flower's strategies have none of it."""
    return _RULES.get(name)


def _reply(number: int, delta: Float32, weight: float) -> Message:
    content = RecordDict(
        {
            _ARRAYS: ArrayRecord({_DELTA: Array(delta.astype(np.float64))}),
            _METRICS: MetricRecord({_WEIGHT: weight}),
        }
    )
    # Given whole, since Flower would else take the numbers of the process's run, and there may be none. The overloads
    # that Flower declares leave this way out.
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=number,
        dst_node_id=0,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=1.0,
        message_type=MessageType.TRAIN,
    )
    return Message(metadata=metadata, content=content)  # pyright: ignore[reportCallIssue]


@contextmanager
def _quiet() -> Generator[None]:
    """Without Flower's line about replies received: plait's ledger says that."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _name(rule: Rule) -> str:
    return rule.name


def _krum(updates: int, bad: int) -> Strategy:  # noqa: ARG001 (Krum takes one of however many)
    return Krum(num_malicious_nodes=bad)


def _multi_krum(updates: int, bad: int) -> Strategy:
    # The paper's m, the most for which updates - m > 2 * bad + 2.
    return MultiKrum(num_malicious_nodes=bad, num_nodes_to_select=max(1, updates - 2 * bad - 3))


def _bulyan(updates: int, bad: int) -> Strategy:
    # Without a bad client Bulyan is the plain mean; Flower refuses fewer than 3, of whom the median is the mean.
    return Bulyan(num_malicious_nodes=bad) if updates >= 3 else FedMedian()


_RULES = {
    rule.name: rule
    for rule in (
        FlowerRule(
            name="bulyan",
            title="Bulyan (arXiv 1802.07927), by Flower",
            computes="of the updates that Krum would take, the mean of the values next to the median of each element; "
            "stands (n - 3) / 4 bad of n; weights are ignored",
            tolerates=lambda updates: max(0, (updates - 3) // 4),
            strategy=_bulyan,
            least_clients=7,
        ),
        FlowerRule(
            name="krum",
            title="Krum (arXiv 1703.02757), by Flower",
            computes="the one update that is nearest to its nearest others; stands (n - 3) / 2 bad of n; "
            "weights are ignored",
            tolerates=lambda updates: max(0, (updates - 3) // 2),
            strategy=_krum,
            least_clients=5,
        ),
        FlowerRule(
            name="multi_krum",
            title="Multi-Krum (arXiv 1703.02757), by Flower",
            computes="weighted mean of the updates that are nearest to their nearest others, about half of them; "
            "stands (n - 3) / 4 bad of n",
            tolerates=lambda updates: max(0, (updates - 3) // 4),
            strategy=_multi_krum,
            least_clients=7,
        ),
    )
}

FLOWER_RULES: tuple[str, ...] = tuple(_RULES)
"""Their names."""

ALL_RULES: Mapping[str, Rule] = {rule.name: rule for rule in sorted((*RULES.values(), *_RULES.values()), key=_name)}
"""plait's own rules and Flower's, by name."""
