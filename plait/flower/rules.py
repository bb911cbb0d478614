"""Flower's own strategies as rules: Krum, Multi-Krum and Bulyan; any with an ``aggregate_train`` works.

Bulyan is Flower's, not that of El Mhamdi et al. (arXiv 1802.07927): the paper lets Krum choose one update at a time and
scores those that are left again; Flower takes the n - 2f that score best at once. What follows is the same.

A strategy gets plait's validated deltas as replies of one flat array each, and its result is the step. The deltas are
widened to float64 first: Flower computes distances through inner products, which in float32 lose the small differences
of honest clients and overflow on a malicious client's large numbers. Every round makes a new strategy, so one
with state (such as FedAdam) does not fit.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, Metadata, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedMedian, Krum, MultiKrum, Strategy
from numpy.typing import NDArray

from plait.adapters import Float32, Subject
from plait.aggregation import Algorithm, Outcome, Rule
from plait.aggregation.robust import Stacked

_ARRAYS, _DELTA, _METRICS, _WEIGHT = "arrays", "delta", "metrics", "num-examples"


def flower_algorithm(tolerates: Callable[[int], int], strategy: Callable[[int, int], Strategy]) -> Algorithm:
    """A strategy, made of the numbers of updates and of bad ones, as the algorithm of a rule."""

    def combine(stacked: Stacked) -> Outcome:
        updates = len(stacked.deltas)
        tolerated = tolerates(updates)
        made = strategy(updates, tolerated)
        replies = [
            _reply(number, delta, weight)
            for number, (delta, weight) in enumerate(zip(stacked.deltas, stacked.weights, strict=True), start=1)
        ]
        with _quiet():
            arrays, _ = made.aggregate_train(stacked.context.round, replies)
        if arrays is None:
            raise ValueError(f"{type(made).__name__} returned nothing for {updates} updates")
        step: NDArray[np.float64] = arrays[_DELTA].numpy()
        return stacked.outcome(step, tolerated_clients=float(tolerated))

    return partial(Stacked, combine=combine)


def _reply(number: int, delta: Float32, weight: float) -> Message:
    arrays = ArrayRecord({_DELTA: Array(delta.astype(np.float64))})
    content = RecordDict({_ARRAYS: arrays, _METRICS: MetricRecord({_WEIGHT: weight})})
    # Given complete, since Flower would otherwise take the numbers of the process's run, if any. Flower's declared
    # overloads lack this form.
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
    """Without Flower's line about replies received: plait's ledger records them."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _multi_krum(updates: int, bad: int) -> Strategy:
    # The paper's m, the most for which updates - m > 2 * bad + 2.
    return MultiKrum(num_malicious_nodes=bad, num_nodes_to_select=max(1, updates - 2 * bad - 3))


def _bulyan(updates: int, bad: int) -> Strategy:
    # Without a bad client Bulyan is the plain mean; Flower refuses fewer than 3, of whom the median is the mean.
    return Bulyan(num_malicious_nodes=bad) if updates >= 3 else FedMedian()


BULYAN = Rule(
    name="bulyan",
    title="Bulyan as Flower has it, after El Mhamdi et al. (arXiv 1802.07927)",
    computes="among the n - 2f updates that Krum scores best, all at once (the paper scores again after each that it "
    "takes), the mean of the values next to each element's median; meant to withstand f = (n - 3) / 4 bad of n; "
    "weights are ignored",
    algorithm=flower_algorithm(lambda updates: max(0, (updates - 3) // 4), _bulyan),
    subject=Subject.TENSORS,
    needs_all=True,
    keeps_nearest=True,
    least_clients=7,
)

KRUM = Rule(
    name="krum",
    title="Krum (arXiv 1703.02757), by Flower",
    computes="the one update that is nearest to its nearest others; withstands (n - 3) / 2 bad of n; "
    "weights are ignored",
    algorithm=flower_algorithm(
        lambda updates: max(0, (updates - 3) // 2), lambda _, bad: Krum(num_malicious_nodes=bad)
    ),
    subject=Subject.TENSORS,
    needs_all=True,
    least_clients=5,
)

MULTI_KRUM = Rule(
    name="multi_krum",
    title="Multi-Krum (arXiv 1703.02757), by Flower",
    computes="weighted mean of the updates that are nearest to their nearest others, about half of them; "
    "withstands (n - 3) / 4 bad of n",
    algorithm=flower_algorithm(lambda updates: max(0, (updates - 3) // 4), _multi_krum),
    subject=Subject.TENSORS,
    needs_all=True,
    keeps_nearest=True,
    least_clients=7,
)
