"""The gradient of every single example, which record-level differential privacy clips.

Bases that `fused` knows compute all examples of a batch at once: each is given a copy of the factors of its own, and
what the thin products already keep apart by adapter is then kept apart by example (rank times width multiply-adds for
each, where ghost norms take sequence length squared). Every other model goes through its own modules, one example
after another. Both see the mean loss of an example over its own labels, so that a long record counts no more than a
short one. Knows no clip and no noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from plait.adapters import Float32, Task
from plait.training.examples import Example
from plait.training.fused import FusedLanguageModel, recognise
from plait.training.loss_scale import PER_EXAMPLE
from plait.training.losses import count_labels, summed_loss

Tensor = torch.Tensor


class ExampleGradients:
    """Gradients with respect to an adapter's parameters.

    Args:
        model: the base with the adapter, in training mode.
        parameters: of the adapter, in layout order; those that train require gradients.
        together: most examples that are computed at once; each takes the memory of an adapter, and of its gradient.
        recomputed: how many of the base's first blocks are computed twice instead of kept, which changes no bit.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        *,
        task: Task,
        pad_token: int,
        together: int,
        recomputed: int = 0,
    ) -> None:
        self._model, self._parameters = model, parameters
        self._recomputed = recomputed
        self._task, self._pad_token = task, pad_token
        self._together = together
        # Constant, so that no example decides about another's.
        self._scale = PER_EXAMPLE if any(x.dtype == torch.float16 for x in model.parameters()) else 1.0
        self._fused = recognise(model) if task is Task.CAUSAL_LM else None

    def __call__(self, examples: Sequence[Example]) -> Iterator[Float32]:
        """The gradient of each example, (size,) float32, in order; zeros for what does not train.

        An array is valid until the next one is asked for.
        """
        for first in range(0, len(examples), self._together):
            part = examples[first : first + self._together]
            if self._fused is not None and self._fused.takes(part):
                yield from self._at_once(self._fused, part)
            else:
                for example in part:
                    yield self._alone(example)

    def _at_once(self, fused: FusedLanguageModel, examples: Sequence[Example]) -> Iterator[Float32]:
        count = len(examples)
        stacks = [
            parameter.detach().expand(count, *parameter.shape).contiguous().requires_grad_(parameter.requires_grad)
            for parameter in self._parameters
        ]
        places = {id(parameter): stack for parameter, stack in zip(self._parameters, stacks, strict=True)}
        losses, counts = fused.token_losses(
            examples, adapters=count, pairs=fused.pairs_of(places), recomputed=self._recomputed
        )
        (torch.stack([part.mean() for part in losses.split(counts)]).sum() * self._scale).backward()
        gradients = [stack.grad for stack in stacks]
        for number in range(count):
            yield self._flat([None if gradient is None else gradient[number] for gradient in gradients])

    def _alone(self, example: Example) -> Float32:
        for parameter in self._parameters:
            parameter.grad = None
        device = self._parameters[0].device
        loss = summed_loss(self._model, [example], task=self._task, pad_token=self._pad_token, device=device)
        (loss / count_labels(example, self._task) * self._scale).backward()
        found = self._flat([parameter.grad for parameter in self._parameters])
        for parameter in self._parameters:
            parameter.grad = None
        return found

    def _flat(self, gradients: Sequence[Tensor | None]) -> Float32:
        parts = [
            np.zeros(parameter.numel(), np.float32) if gradient is None else gradient.float().cpu().numpy().reshape(-1)
            for parameter, gradient in zip(self._parameters, gradients, strict=True)
        ]
        flat = np.concatenate(parts)
        return flat if self._scale == 1 else flat / np.float32(self._scale)
