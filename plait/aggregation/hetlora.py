"""HetLoRA: average clients of different ranks, padded with zeros and weighted by the norms of their products.

Cho et al., "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models", arXiv 2401.06432 (HetLoRA),
in three parts. *Distribution*: a client gets the leading slices of the master (`Resizing.SLICE`). *Aggregation*:
factors are padded with zeros and averaged with weights ||S_k|| / Z, where ||S_k|| is the Frobenius norm of the client's
product in that module; this is implemented here, times the client's own weight (the paper has none). *Self-pruning*: a
client adds lambda ||B_k[:, g r:]|| ||A_k[g r:]|| to its loss and drops the slices from g r on if their norm has shrunk;
that happens at the client, and appears here as a client of a lower rank. Padding dilutes: slices that few clients have
shrink towards zero each round (see `raflora` and `rbla`).
"""

from __future__ import annotations

from functools import partial

import numpy as np

from plait.adapters import Float32
from plait.aggregation.contribution import UP_TO_SERVER, Contribution
from plait.aggregation.geometry import Pair
from plait.aggregation.low_rank import LowRank
from plait.aggregation.round import Outcome, RoundContext
from plait.aggregation.rule import Rule
from plait.aggregation.slice_sum import SliceSum
from plait.aggregation.step import step_to
from plait.aggregation.weighted_sum import WeightedSum


class PaddedMean:
    """The running mean of padded factors.

    Args:
        by_norm: whether a client is also weighted by the norm of its product.
    """

    def __init__(self, context: RoundContext, *, by_norm: bool) -> None:
        self._context = context
        self._by_norm = by_norm
        self._slices = SliceSum(context.geometry)
        self._others = WeightedSum(context.geometry.others_size)

    def add(self, contribution: Contribution) -> None:
        """Add one client's delta."""
        trained = contribution.received.flat + contribution.delta.flat
        for pair in contribution.geometry.pairs:
            norm = _product_norm(pair, trained) if self._by_norm else 1.0
            self._slices.add(pair, trained, contribution.weight * norm)
        self._others.add(contribution.geometry.others_of(contribution.delta.flat), contribution.weight)

    def finish(self) -> Outcome:
        """The step to the mean; a module in which no client has a nonzero product stays unchanged."""
        geometry = self._context.geometry
        wanted = self._context.master.flat.astype(np.float64)
        for pair in geometry.pairs:
            if self._slices.weight(pair) > 0:
                pair.b_of(wanted)[:], pair.a_of(wanted)[:] = self._slices.mean_of_all(pair)
        geometry.put_others(wanted, geometry.others_of(wanted) + self._others.mean())
        return Outcome(step_to(wanted, self._context.master))


def _product_norm(pair: Pair, flat: Float32) -> float:
    return pair.scale * LowRank(pair.b_of(flat).astype(float), pair.a_of(flat).astype(float)).norm()


HETLORA = Rule(
    name="hetlora",
    title="HetLoRA (arXiv 2401.06432)",
    computes="mean of zero-padded B and A, each client weighted by its weight times the norm of its product",
    algorithm=partial(PaddedMean, by_norm=True),
    ranks=UP_TO_SERVER,
)
