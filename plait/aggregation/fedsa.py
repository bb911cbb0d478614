"""FedSA-LoRA: A is shared, every client keeps a B of its own.

Guo et al., "Selective Aggregation for Low-Rank Adaptation in Federated Learning", arXiv 2410.01463. A carries what
clients have in common, B what is theirs. The mean of A is exact; but clients have models of their own, so there is no
one product to be exact about, and the master's B stays what it was.
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
