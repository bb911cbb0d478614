"""AdamW's moments of a user's own trainer: handed to its optimizer before the first step, and taken out after the last.

Reads and writes the state of torch's Adam and AdamW (also behind accelerate's wrapper). Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import nn

from plait.errors import ConfigError
from plait.rounds.moments import Moments

_REMEDY = "nearest: --moments fresh"


class TrainerMoments:
    """The moments of one training.

    Args:
        parameters: of the adapter, in layout order.
        before: what an earlier training left; None to begin without.

    Attributes:
        after: what this training leaves; None until `take_out`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], before: Moments | None) -> None:
        self._parameters = parameters
        self._before = before or Moments.none(sum(each.numel() for each in parameters), len(parameters))
        self.after: Moments | None = None

    def hand_in(self, optimizer: object) -> None:
        """Let an optimizer that has taken no step go on from the earlier moments.

        Raises:
            ConfigError: it is no AdamW, so the moments are not its own.
        """
        adam = _adam_in(optimizer)
        group_of = {each: group for group in adam.param_groups for each in group["params"]}
        parts = zip(self._parameters, *self._split(), self._before.steps, strict=True)
        for parameter, mean, square, steps in parts:
            group = group_of.get(parameter)
            if group is None or not steps:
                continue
            # torch keeps the number of steps where the step is computed.
            place = parameter.device if group.get("fused") or group.get("capturable") else torch.device("cpu")
            adam.state[parameter] = {
                "step": torch.tensor(float(steps), device=place),
                "exp_avg": mean.view_as(parameter).to(parameter, copy=True),
                "exp_avg_sq": square.view_as(parameter).to(parameter, copy=True),
            }

    @torch.no_grad()
    def take_out(self, optimizer: object) -> None:
        """Keep what the optimizer has now; tensors that it did not step keep what they had.

        Raises:
            ConfigError: it is no AdamW.
        """
        adam = _adam_in(optimizer)
        mean, square = self._before.mean.copy(), self._before.square.copy()
        counts = list(self._before.steps)
        first = 0
        for number, parameter in enumerate(self._parameters):
            last = first + parameter.numel()
            if state := adam.state.get(parameter):
                mean[first:last] = _flat(state["exp_avg"])
                square[first:last] = _flat(state["exp_avg_sq"])
                counts[number] = int(state["step"])
            first = last
        self.after = Moments(mean, square, tuple(counts))

    def _split(self) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        sizes = [parameter.numel() for parameter in self._parameters]
        mean, square = (torch.from_numpy(each.copy()).split(sizes) for each in (self._before.mean, self._before.square))
        return mean, square


def _adam_in(optimizer: object) -> torch.optim.Optimizer:
    """The optimizer itself, out of accelerate's wrapper."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if not isinstance(inner, (torch.optim.Adam, torch.optim.AdamW)):
        raise ConfigError(
            f"the trainer's optimizer is a {type(inner).__name__} and moments is carry, expected torch's AdamW; "
            f"{_REMEDY}"
        )
    if any(cast("bool", group.get("amsgrad")) for group in inner.param_groups):
        raise ConfigError(
            f"the trainer's optimizer is an AMSGrad and moments is carry, expected plain AdamW; {_REMEDY}"
        )
    return inner


def _flat(tensor: torch.Tensor) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return tensor.detach().float().cpu().numpy().reshape(-1)
