"""RoLoRA: clients train B in one round and A in the next, the other side frozen.

Chen et al., "Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA", arXiv 2502.01755. In each round
one side is the same for all, so the mean of the other is the mean of the products; over two rounds both sides learn. B
comes first, since a fresh adapter has B = 0 and then A has no gradient.
"""

from __future__ import annotations

from plait.aggregation.fedavg import Mean
from plait.aggregation.geometry import Side
from plait.aggregation.rule import Exactness, Rule

ROLORA = Rule(
    name="rolora",
    title="RoLoRA (arXiv 2502.01755)",
    computes="weighted mean of B in odd and of A in even rounds, the other side frozen: the exact mean of the products",
    algorithm=Mean,
    exactness=Exactness.EXACT,
    linear=True,
    frozen=(Side.A, Side.B),
)
