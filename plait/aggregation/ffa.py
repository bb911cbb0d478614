"""FFA-LoRA: A stays as it was initialised, only B is trained and averaged.

Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", arXiv 2403.12313. With one A for all, sum p_k B_k
A = (sum p_k B_k) A: the mean of B is the mean of the products.
"""

from __future__ import annotations

from plait.aggregation.fedavg import Mean
from plait.aggregation.geometry import Side
from plait.aggregation.rule import Exactness, Rule

FFA = Rule(
    name="ffa",
    title="FFA-LoRA (arXiv 2403.12313)",
    computes="weighted mean of B over one frozen A, which is the exact mean of the products",
    algorithm=Mean,
    exactness=Exactness.EXACT,
    linear=True,
    frozen=(Side.A,),
)
