"""FLoRA: the stack of all clients' factors is merged into the base, and the adapter starts fresh.

Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations", arXiv
2409.05976, section 3: [p_1 s_1 B_1, p_2 s_2 B_2, ...] [A_1; A_2; ...] is the sum of p_k s_k B_k A_k, for any ranks and
scales. Each client's own alpha / r_k is in its scale s_k. The base takes the stack (less the product of the adapter
that clients start from next, zero for a fresh one), so base and adapter together are the exact mean.
"""

from __future__ import annotations

from plait.aggregation.base_delta import BaseDelta
from plait.aggregation.contribution import ANY_RANK, Contribution
from plait.aggregation.exact_mean import ExactMean
from plait.aggregation.low_rank import Float64, LowRank
from plait.aggregation.round import Outcome, RoundContext
from plait.aggregation.rule import Exactness, Rule
from plait.aggregation.step import landing
from plait.aggregation.traffic import stacked_parameters


class _Round:
    def __init__(self, context: RoundContext) -> None:
        self._context = context
        self._mean = ExactMean(context)

    def add(self, contribution: Contribution) -> None:
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


FLORA = Rule(
    name="flora",
    title="FLoRA (arXiv 2409.05976)",
    computes="exact mean of the products, stacked and merged into the base; the adapter starts fresh each round",
    algorithm=_Round,
    exactness=Exactness.EXACT,
    ranks=ANY_RANK,
    continuous=False,
    moves_base=True,
    # The stack of all adapters; the fresh adapter follows from the seed.
    downlink=lambda client, clients: client.others_size + stacked_parameters(client, clients),
)
