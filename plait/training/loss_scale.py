"""Losses in float16 are multiplied before the backward pass, so that small gradients do not vanish (arXiv 1710.03740).

The factor is a power of two, as in torch's `GradScaler`: halved whenever a gradient overflows, and doubled after many
steps without an overflow. A step is never taken along a gradient that overflowed. Other types need no factor. Knows no
model and no step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

FIRST = 2.0**16
"""The factor that a training in float16 begins with."""
_LEAST = 2.0**-14
_AGAIN_AFTER = 2000
PER_EXAMPLE = 2.0**10
"""The constant factor of gradients of single examples, in float16."""


@dataclass
class LossScale:
    """The factor of a training's losses.

    Attributes:
        factor: by which a loss is multiplied; gradients are divided by it, in float32.
        adapts: whether it changes: in float16 only.
    """

    factor: float = 1.0
    adapts: bool = False
    _without_overflow: int = 0

    @classmethod
    def of(cls, tensors: Iterable[torch.Tensor]) -> LossScale:
        """What a model needs that has these parameters."""
        return cls(FIRST, adapts=True) if any(x.dtype == torch.float16 for x in tensors) else cls()

    def applied(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss to go back from."""
        return loss * self.factor if self.factor != 1 else loss

    @torch.no_grad()
    def overflows(self, gradients: Iterable[torch.Tensor | None]) -> torch.Tensor:
        """() float32, 1 if a gradient is not finite, else 0; on the gradients' device, so that nothing waits for it."""
        found = [gradient for gradient in gradients if gradient is not None]
        if not found:  # a group without a difference in its rewards has none
            return torch.zeros(())
        norms = torch._foreach_norm(found, math.inf)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        # Those of a base that is placed over several devices lie with their blocks.
        one = norms[0].device
        return (~torch.stack([norm.float().to(one) for norm in norms]).isfinite().all()).float()

    def held(self) -> None:
        """A step was taken."""
        self._without_overflow += 1
        if self.adapts and self._without_overflow == _AGAIN_AFTER:
            self.factor, self._without_overflow = 2 * self.factor, 0

    def lower(self) -> bool:
        """Take half the factor from now on; False if there is nothing to gain from that."""
        if not self.adapts or self.factor <= _LEAST:
            return False
        self.factor, self._without_overflow = self.factor / 2, 0
        return True

    def settle(self, attempt: Callable[[], tuple[list[float], bool]]) -> tuple[list[float], bool]:
        """Attempt a step, again with half the factor as long as its gradients overflow though its losses do not.

        torch's `GradScaler` gives up the batch instead; a client has few steps.

        Args:
            attempt: gives losses and whether a gradient overflowed; can be called again.

        Returns:
            The last attempt's losses, and whether a step may be taken along its gradients.
        """
        while True:
            losses, overflowed = attempt()
            if not overflowed:
                return losses, True
            if not all(map(math.isfinite, losses)) or not self.lower():
                return losses, False
