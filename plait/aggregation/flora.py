"""FLoRA: the stack of all clients' factors goes into the base, and the adapter starts anew.

Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations", arXiv
2409.05976, section 3: [p_1 s_1 B_1, p_2 s_2 B_2, ...] [A_1; A_2; ...] is the sum of p_k s_k B_k A_k, for any ranks and
scales. Each client's own alpha / r_k is in its scale s_k. The base takes the stack (less the product of the adapter
that clients start from next, zero for a fresh one), so base and adapter together are the exact mean.
"""

from __future__ import annotations

from plait.aggregation.base_delta import BaseDelta
from plait.aggregation.contribution import ANY_RANK, Contribution
from plait.aggregation.exact_mean import ExactMean
from plait.aggregation.geometry import BOTH_SIDES, Geometry, Side
from plait.aggregation.low_rank import Float64, LowRank
from plait.aggregation.rule import Accumulator, Exactness, Handing, Outcome, RoundContext, Subject
from plait.aggregation.step import landing
from plait.aggregation.traffic import Traffic, parameters, stacked_parameters


class Flora:
    """The exact mean as a change of the base; the adapter is initialised again."""

    name = "flora"
    title = "FLoRA (arXiv 2409.05976)"
    computes = "exact mean of the products, stacked and merged into the base; the adapter starts anew each round"
    subject = Subject.FACTORS
    exactness = Exactness.EXACT
    linear = False
    mixed_ranks = True
    higher_ranks = True
    moves_base = True
    needs_all = False
    least_clients = 1
    continuous = False
    personal: Side | None = None
    handing = Handing.SLICE

    def trained(self, round_number: int) -> frozenset[Side]:  # noqa: ARG002 (the same in every round)
        """Both sides."""
        return BOTH_SIDES

    def begin(self, context: RoundContext) -> Accumulator:
        """Start a round."""
        return _Round(context)

    def traffic(self, server: Geometry, client: Geometry, clients: int) -> Traffic:  # noqa: ARG002
        """The adapter up; the stack of all adapters down, the fresh one follows from the seed."""
        return Traffic(parameters(client), client.others_size + stacked_parameters(client, clients))


class _Round:
    def __init__(self, context: RoundContext) -> None:
        self._context = context
        self._mean = ExactMean(context)

    def add(self, contribution: Contribution) -> None:
        contribution.check(self._context.geometry, ranks=ANY_RANK)
        self._mean.add(contribution)

    def finish(self) -> Outcome:
        context = self._context
        fresh: dict[str, tuple[Float64, Float64]] = {
            pair.module: (
                pair.b_of(context.initial.flat).astype(float),
                pair.a_of(context.initial.flat).astype(float),
            )
            for pair in context.geometry.pairs
        }
        step = self._mean.step(fresh)
        landed = landing(step, context.master)
        stacks: dict[str, LowRank] = {}
        for pair in context.geometry.pairs:
            stack = self._mean.product(pair)
            b, a = pair.b_of(landed).astype(float), pair.a_of(landed).astype(float)
            if b.any():
                stack = stack.plus(LowRank(b, a), factor=-pair.scale)
            stacks[pair.module] = stack.compressed()
        return Outcome(step, base=BaseDelta(stacks))
