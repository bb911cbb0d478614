"""Loss terms that depend on an adapter's values only, and their table.

A term computes its gradient; the reported losses are those of the examples alone. plait's own trainer adds terms
before it clips. Knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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


class LossTerm(Protocol):
    """A term added to the loss."""

    @property
    def setting(self) -> str:
        """The setting that enables it."""
        ...

    def applies(self, settings: Settings) -> bool:
        """Whether these settings enable it."""
        ...

    def add_gradient(self, into: torch.Tensor, values: torch.Tensor, origin: torch.Tensor, settings: Settings) -> None:
        """Add the term's gradient.

        Args:
            into: the gradient of the adapter, or of one of its tensors; added to in place.
            origin: its value before the round's first step; not changed.
        """
        ...


TERMS: tuple[LossTerm, ...] = (Proximal(),)
"""All terms; a run has those that apply."""


def terms_of(settings: Settings) -> tuple[LossTerm, ...]:
    """The terms of a run with these settings."""
    return tuple(term for term in TERMS if term.applies(settings))
