"""Fed-SB: the mean of the small square matrices of LoRA-XS, between factors that never change.

Singhal et al., "Fed-SB: A Silver Bullet for Extreme Communication Efficiency and Performance in (Private) Federated
LoRA Fine-Tuning", arXiv 2502.15436; LoRA-XS is arXiv 2405.17604. With W' = W + scale * B R A and A, B the same for all
and fixed, sum p_k B R_k A = B (sum p_k R_k) A. The layout then holds only the matrices R (rank x rank) and no pair.
"""

from __future__ import annotations

from plait.adapters import Layout, Subject
from plait.aggregation.fedavg import Mean
from plait.aggregation.geometry import Geometry
from plait.aggregation.rule import Exactness, Rule

FEDSB = Rule(
    name="fedsb",
    title="Fed-SB on LoRA-XS (arXiv 2502.15436, 2405.17604)",
    computes="weighted mean of the square matrices R between fixed B and A, which is the exact mean of B R A",
    algorithm=Mean,
    subject=Subject.SQUARES,
    exactness=Exactness.EXACT,
    linear=True,
)


def square_geometry(factors: Geometry) -> Geometry:
    """LoRA-XS on the modules of a LoRA adapter: a square matrix of each pair's rank, all other tensors the same."""
    shapes = {f"{pair.module}.lora_R": (pair.rank, pair.rank) for pair in factors.pairs}
    layout = Layout.of({**shapes, **{slot.name: slot.shape for slot in factors.others}})
    return Geometry(layout, (), layout.slots)
