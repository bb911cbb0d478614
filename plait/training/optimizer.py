"""AdamW (arXiv 1711.05101) on the trained tensors of an adapter, in one flat float32 buffer: the master.

Its moments can be exported and carried into the next run. Tensors that do not train are neither stepped nor decayed.
Knows nothing of models, losses and schedules.

AdamW's epsilon is small enough that steps never become proportional to gradients. With the usual 1e-8, a server that
sends tiny factors would receive the gradient itself, and from it the tokens of a batch (DAGER, arXiv 2405.15586).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn

from plait.adapters import Float32
from plait.rounds.local_model import Moments

SMALLEST_GRADIENT = 1e-15
"""Gradients below it count as zero: their squares would not be exact in float32."""
EPSILON = 1e-20


@dataclass(frozen=True)
class _Run:
    """Neighbouring tensors that train and have taken the same number of steps."""

    first: int
    last: int
    steps: int


class FlatAdamW:
    """AdamW over one flat buffer.

    Attributes:
        master: (size,) float32, the adapter.

    Args:
        start: (size,) the initial adapter; not changed.
        sizes: elements of each tensor, in the buffer's order.
        trained: whether each tensor trains; at least one does.
        moments: those of an earlier run, of as many values and tensors; None to start fresh.
    """

    def __init__(
        self,
        start: Float32,
        sizes: Sequence[int],
        trained: Sequence[bool],
        *,
        weight_decay: float,
        moments: Moments | None,
        device: torch.device,
    ) -> None:
        before = moments or Moments.none(len(start), len(sizes))
        self.master = torch.from_numpy(start.copy()).to(device)
        self._gradient: torch.Tensor | None = None
        self._sizes = list(sizes)
        self._trained = list(trained)
        self._steps_before = before.steps
        self._mean, self._square = (torch.from_numpy(x.copy()).to(device) for x in (before.mean, before.square))
        self._runs = _runs(sizes, trained, before.steps)
        # Views: a step on them is a step on the buffers.
        self._parameters = [nn.Parameter(self.master[run.first : run.last]) for run in self._runs]
        self._optimizer = torch.optim.AdamW(self._parameters, weight_decay=weight_decay, eps=EPSILON, fused=True)
        for run, parameter in zip(self._runs, self._parameters, strict=True):
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(run.steps), device=device),
                "exp_avg": self._mean[run.first : run.last],
                "exp_avg_sq": self._square[run.first : run.last],
            }

    @property
    def values(self) -> tuple[torch.Tensor, ...]:
        """The master, tensor by tensor, each flat; views."""
        return self.master.split(self._sizes)

    @property
    def gradient(self) -> torch.Tensor:
        """(size,) float32, of the next step; filled by `take` or the caller, and there until `forget`."""
        if self._gradient is None:
            self._gradient = torch.empty_like(self.master)
        return self._gradient

    def forget(self) -> None:
        """Free the gradient: until the next one, the model's own values may have its memory."""
        self._gradient = None
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def take(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """Fill the gradient from those of the tensors, of any type; None and untrained tensors are zero."""
        slots: list[torch.Tensor] = []
        given: list[torch.Tensor] = []
        for slot, gradient, trains in zip(self.gradient.split(self._sizes), gradients, self._trained, strict=True):
            if gradient is None or not trains:
                slot.zero_()
            else:
                slots.append(slot.view_as(gradient))
                given.append(gradient)
        copy_all(slots, given)

    def where_trained(self, values: torch.Tensor) -> torch.Tensor:
        """(size,) values with zeros for what does not train; changes them in place."""
        for slot, trains in zip(values.split(self._sizes), self._trained, strict=True):
            if not trains:
                slot.zero_()
        return values

    def step(self, learning_rate: float) -> None:
        """Take a step along the gradient."""
        torch.hardshrink(self.gradient, SMALLEST_GRADIENT, out=self.gradient)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        for run, parameter in zip(self._runs, self._parameters, strict=True):
            parameter.grad = self.gradient[run.first : run.last]
        self._optimizer.step()

    def moments(self, steps: int) -> Moments:
        """The moments after this many steps, the last: on a CPU they are the optimizer's own memory."""
        counts = (n + steps if trains else n for n, trains in zip(self._steps_before, self._trained, strict=True))
        return Moments(self._mean.cpu().numpy(), self._square.cpu().numpy(), tuple(counts))


@torch.no_grad()
def copy_all(into: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    """Copy tensors into tensors of their shapes: at once, unless they lie on several devices."""
    if not into:
        return
    if len({tensor.device for tensor in (*into, *values)}) == 1:
        torch._foreach_copy_(list(into), list(values))  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        return
    for slot, value in zip(into, values, strict=True):
        slot.copy_(value, non_blocking=True)


def _runs(sizes: Sequence[int], trained: Sequence[bool], steps: Sequence[int]) -> list[_Run]:
    found: list[_Run] = []
    first = 0
    tensors = zip(sizes, trained, steps, strict=True)
    for (trains, seen), neighbours in groupby(tensors, key=lambda tensor: tensor[1:]):
        last = first + sum(size for size, _, _ in neighbours)
        if trains:
            found.append(_Run(first, last, seen))
        first = last
    return found
