"""Rules that average factors of different ranks, slice by slice; clients of lower ranks get the leading slices.

HetLoRA (arXiv 2401.06432) pads factors with zeros and weighs them by the norms of their products (here times the
client's own weight), which dilutes slices that few clients have. RBLA (arXiv 2408.08699) divides a slice by the weight
of its owners only, and a slice that no client has stays the master's.
"""

from functools import partial

import numpy as np

from plait.aggregation.low_rank import LowRank
from plait.aggregation.rule import UP_TO_SERVER, Contribution, Outcome, RoundContext, Rule
from plait.aggregation.sums import SliceSum, WeightedSum, step_to


class SliceMean:
    """The mean of the slices of factors, by client also `by_norm` of its product, or `of_owners` of a slice alone."""

    def __init__(self, context: RoundContext, *, by_norm: bool = False, of_owners: bool = False) -> None:
        self._context, self._by_norm, self._of_owners = context, by_norm, of_owners
        self._slices = SliceSum(context.geometry)
        self._others = WeightedSum(context.geometry.others_size)

    def add(self, contribution: Contribution) -> None:
        """Add one client's delta."""
        trained = contribution.received.flat + contribution.delta.flat
        for pair in contribution.geometry.pairs:
            norm = 1.0
            if self._by_norm:
                norm = pair.scale * LowRank(pair.b_of(trained).astype(float), pair.a_of(trained).astype(float)).norm()
            self._slices.add(pair, trained, contribution.weight * norm)
        self._others.add(contribution.geometry.others_of(contribution.delta.flat), contribution.weight)

    def finish(self) -> Outcome:
        """The step to the mean."""
        geometry, slices = self._context.geometry, self._slices
        wanted = self._context.master.flat.astype(np.float64)
        for pair in geometry.pairs:
            b, a = pair.b_of(wanted), pair.a_of(wanted)
            if self._of_owners:
                b[:], a[:] = slices.mean_of_owners(pair, b=b, a=a)
            elif slices.weight(pair) > 0:
                b[:], a[:] = slices.mean_of_all(pair)
        geometry.put_others(wanted, geometry.others_of(wanted) + self._others.mean())
        return Outcome(step_to(wanted, self._context.master))


HETLORA = Rule(
    name="hetlora",
    title="HetLoRA (arXiv 2401.06432)",
    computes="mean of zero-padded B and A, each client weighted by its weight times the norm of its product",
    algorithm=partial(SliceMean, by_norm=True),
    ranks=UP_TO_SERVER,
)

ZEROPAD = Rule(
    name="zeropad",
    title="zero padding, the baseline of HetLoRA (arXiv 2401.06432)",
    computes="weighted mean of zero-padded B and A; slices that few clients have are diluted",
    algorithm=SliceMean,
    linear=True,
    ranks=UP_TO_SERVER,
)

RBLA = Rule(
    name="rbla",
    title="RBLA (arXiv 2408.08699)",
    computes="weighted mean of each rank slice of B and A over the clients that have it, without dilution",
    algorithm=partial(SliceMean, of_owners=True),
    linear=True,
    ranks=UP_TO_SERVER,
)
