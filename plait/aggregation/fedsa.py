"""FedSA-LoRA: A is shared, and every client keeps its own B.

Guo et al., "Selective Aggregation for Low-Rank Adaptation in Federated Learning", arXiv 2410.01463. A holds what
clients have in common, B what is specific to each. The mean of A is exact; but every client has its own model, so there
is no single product to be exact about, and the master's B does not change.
"""

from __future__ import annotations

from plait.aggregation.fedavg import Mean
from plait.aggregation.geometry import Side
from plait.aggregation.rule import Rule

FEDSA = Rule(
    name="fedsa",
    title="FedSA-LoRA (arXiv 2410.01463)",
    computes="weighted mean of A; B stays at each client, so models are personal and have no common product",
    algorithm=Mean,
    linear=True,
    personal=Side.B,
)
