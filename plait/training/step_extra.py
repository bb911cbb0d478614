"""Additions to the steps of a user's own trainer: loss terms, and what a correction of steps carries in.

plait's own trainer adds them itself (`learner.Learner`), before it clips. Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from plait.adapters import Float32
from plait.training.loss_terms import terms_of
from plait.wire.settings import Settings


@dataclass(frozen=True, eq=False)
class StepExtra:
    """Additions to each step of the trained parameters.

    Attributes:
        origin: their values before the first step.
        drift: added to each after a step; empty for nothing.
        settings: of the run and the round.
        slope: subtracted from each gradient; empty for nothing.
    """

    parameters: tuple[nn.Parameter, ...]
    origin: tuple[torch.Tensor, ...]
    drift: tuple[torch.Tensor, ...]
    settings: Settings
    slope: tuple[torch.Tensor, ...] = ()

    @classmethod
    def of(
        cls,
        parameters: Sequence[nn.Parameter],
        trained: Sequence[bool],
        settings: Settings,
        drift: Float32 | None,
        slope: Float32 | None = None,
    ) -> StepExtra:
        """The additions for the trained parameters of an adapter.

        Args:
            parameters: of the adapter, in layout order, as they are before the first step.
            drift: (size,) in layout order; None for none.
            slope: (size,) in layout order; None for none.
        """
        chosen = [parameter for parameter, trains in zip(parameters, trained, strict=True) if trains]
        origin = [parameter.detach().clone() for parameter in chosen]

        def parts(vector: Float32 | None) -> tuple[torch.Tensor, ...]:
            if vector is None:
                return ()
            sizes = [parameter.numel() for parameter in parameters]
            whole = zip(torch.from_numpy(vector.copy()).split(sizes), parameters, trained, strict=True)
            return tuple(part.view_as(parameter).to(parameter) for part, parameter, trains in whole if trains)

        return cls(tuple(chosen), tuple(origin), parts(drift), settings, parts(slope))

    @property
    def names(self) -> tuple[str, ...]:
        """The settings that enable it; none if nothing is added."""
        return (*(term.setting for term in terms_of(self.settings)), *(["scaffold"] if self.drift else []))

    @torch.no_grad()
    def add_to_gradients(self) -> None:
        """Add the gradients of the run's loss terms."""
        for term in terms_of(self.settings):
            for parameter, origin in zip(self.parameters, self.origin, strict=True):
                if parameter.grad is not None:
                    term.add_gradient(parameter.grad, parameter, origin, self.settings)
        for parameter, part in zip(self.parameters, self.slope, strict=False):
            if parameter.grad is not None:
                parameter.grad.sub_(part)

    @torch.no_grad()
    def add_to_values(self) -> None:
        """Add the correction for drift."""
        for parameter, part in zip(self.parameters, self.drift, strict=False):
            parameter.add_(part)
