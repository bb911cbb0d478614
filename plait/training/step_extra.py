"""What a run adds to the steps of somebody else's trainer: FedProx's pull and SCAFFOLD's correction.

plait's own trainer adds them itself (`learner.Learner`), before it clips. Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from plait.adapters import Float32


@dataclass(frozen=True, eq=False)
class StepExtra:
    """What is added to each step of the parameters that train.

    Attributes:
        parameters: these.
        origin: what they were before the first step, for FedProx; empty without it.
        drift: what each is moved by after a step, for SCAFFOLD; empty without it.
        proximal: FedProx's mu (Li et al., arXiv 1812.06127, eq. 2).
    """

    parameters: tuple[nn.Parameter, ...]
    origin: tuple[torch.Tensor, ...]
    drift: tuple[torch.Tensor, ...]
    proximal: float

    @classmethod
    def of(
        cls, parameters: Sequence[nn.Parameter], trained: Sequence[bool], *, proximal: float, drift: Float32 | None
    ) -> StepExtra:
        """What is added where some of an adapter's parameters train.

        Args:
            parameters: of the adapter, in layout order, as they are before the first step.
            trained: which of them train.
            proximal: FedProx's mu; 0 for none.
            drift: (size,) in layout order; None for none.
        """
        chosen = [parameter for parameter, trains in zip(parameters, trained, strict=True) if trains]
        origin = [parameter.detach().clone() for parameter in chosen] if proximal else []
        parts: list[torch.Tensor] = []
        if drift is not None:
            sizes = [parameter.numel() for parameter in parameters]
            whole = zip(torch.from_numpy(drift.copy()).split(sizes), parameters, trained, strict=True)
            parts = [part.view_as(parameter).to(parameter) for part, parameter, trains in whole if trains]
        return cls(tuple(chosen), tuple(origin), tuple(parts), proximal)

    @property
    def names(self) -> tuple[str, ...]:
        """The settings that ask for it; none where nothing is added."""
        return (*(["proximal"] if self.origin else []), *(["scaffold"] if self.drift else []))

    @torch.no_grad()
    def add_to_gradients(self) -> None:
        """Add the proximal term's gradient, mu (w - w0)."""
        for parameter, origin in zip(self.parameters, self.origin, strict=False):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - origin, alpha=self.proximal)

    @torch.no_grad()
    def add_to_values(self) -> None:
        """Add the correction for drift."""
        for parameter, part in zip(self.parameters, self.drift, strict=False):
            parameter.add_(part)
