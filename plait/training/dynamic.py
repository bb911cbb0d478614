"""FedDyn's quadratic term: alpha/2 ||w - w0||^2 (arXiv 2111.04263, algorithm 1).

`plait.rounds.feddyn` has the linear one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from plait.wire.settings import Settings


@dataclass(frozen=True)
class Dynamic:
    """The quadratic term."""

    setting = "feddyn"

    def applies(self, settings: Settings) -> bool:
        """Whether alpha is not 0."""
        return settings.feddyn > 0

    def add_gradient(self, into: torch.Tensor, values: torch.Tensor, origin: torch.Tensor, settings: Settings) -> None:
        """Add alpha (w - w0)."""
        into.add_(values - origin, alpha=settings.feddyn)
