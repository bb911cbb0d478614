"""Additions to the steps of a user's own trainer: the run's loss terms.

plait's own trainer adds them itself (`learner.Learner`), before it clips. Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from plait.training.loss_terms import terms_of
from plait.wire.settings import Settings


@dataclass(frozen=True, eq=False)
class StepExtra:
    """Additions to each step of the trained parameters.

    Attributes:
        origin: their values before the first step.
        settings: of the run and the round.
    """

    parameters: tuple[nn.Parameter, ...]
    origin: tuple[torch.Tensor, ...]
    settings: Settings

    @classmethod
    def of(cls, parameters: Sequence[nn.Parameter], trained: Sequence[bool], settings: Settings) -> StepExtra:
        """The additions for the trained parameters of an adapter, in layout order, before the first step."""
        chosen = [parameter for parameter, trains in zip(parameters, trained, strict=True) if trains]
        return cls(tuple(chosen), tuple(parameter.detach().clone() for parameter in chosen), settings)

    @property
    def names(self) -> tuple[str, ...]:
        """The settings that enable it; none if nothing is added."""
        return tuple(term.setting for term in terms_of(self.settings))

    @torch.no_grad()
    def add_to_gradients(self) -> None:
        """Add the gradients of the run's loss terms."""
        for term in terms_of(self.settings):
            for parameter, origin in zip(self.parameters, self.origin, strict=True):
                if parameter.grad is not None:
                    term.add_gradient(parameter.grad, parameter, origin, self.settings)
