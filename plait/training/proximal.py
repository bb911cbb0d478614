"""FedProx: stay near the round's initial adapter.

Li et al., "Federated Optimization in Heterogeneous Networks", arXiv 1812.06127, eq. 2: mu/2 ||w - w0||^2 is added to a
client's loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from plait.wire.settings import Settings


@dataclass(frozen=True)
class Proximal:
    """The proximal term."""

    setting = "proximal"

    def applies(self, settings: Settings) -> bool:
        """Whether mu is not 0."""
        return settings.proximal > 0

    def add_gradient(self, into: torch.Tensor, values: torch.Tensor, origin: torch.Tensor, settings: Settings) -> None:
        """Add mu (w - w0)."""
        into.add_(values - origin, alpha=settings.proximal)
