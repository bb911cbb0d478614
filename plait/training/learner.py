"""One adapter in training: its optimizer, the order of its examples, and the additions to its steps.

Knows no model: the caller passes gradients and losses and takes values and examples. So an adapter trained alone and
adapters trained in one batch take the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from plait.adapters import Float32, Task
from plait.rounds.moments import Moments
from plait.training.examples import Example
from plait.training.loss_terms import terms_of
from plait.training.losses import count_labels
from plait.training.optimizer import FlatAdamW
from plait.wire.settings import Settings

Tensor = torch.Tensor

LARGEST_FALL = 1.0
"""Largest fall of the batch's loss, in nats, that a step may predict to first order. It limits a step's effect on the
model rather than on its parameters, so it means the same for every method, rank and base: a trust region (Conn,
Gould and Toint, "Trust Region Methods", 2000). A suitable learning rate rarely reaches it; one ten times too high
does in every step, and learns instead of diverging (`simulations/defaults`)."""


@dataclass(frozen=True)
class TrainingInputs:
    """The data, settings and starting point of one adapter's training.

    Attributes:
        settings: steps, batch, learning rate, schedule, seed, which sides train, loss terms.
        start: (size,) the adapter before; not changed.
        moments: AdamW's, from a previous training; None for new ones.
        drift: (size,) correction added to the trained part after every step; None for none.
        slope: (size,) subtracted from the gradient of the trained part in every step; None for none.
    """

    examples: Sequence[Example]
    settings: Settings
    start: Float32
    moments: Moments | None = None
    drift: Float32 | None = None
    slope: Float32 | None = None

    @property
    def examples_a_step(self) -> int:
        """Sequences of one optimizer step."""
        return self.settings.batch_size * self.settings.gradient_accumulation_steps


@dataclass(frozen=True)
class StepReport:
    """Figures of a training run.

    Attributes:
        loss: mean over its steps of the mean loss a step, in nats.
        tokens: tokens that went through the model, padding not counted.
        seconds: wall time; a part of it where several adapters shared it.
        first_loss: mean loss of the first step, before any training; None if the trainer does not report it.
    """

    loss: float
    tokens: int
    seconds: float
    first_loss: float | None = None


@dataclass(frozen=True)
class LocalTraining:
    """The result of a training run.

    Attributes:
        flat: (size,) the adapter after.
        report: its figures.
        moments: AdamW's, to continue with.
    """

    flat: Float32
    report: StepReport
    moments: Moments


class Learner:
    """One adapter in training.

    The run's loss terms (`loss_terms`) are added to what is minimised, though not to the losses that are reported.
    SCAFFOLD's correction (`plait.rounds.drift`) is added to the adapter after every step, because it is computed from
    AdamW's steps, not from gradients.

    Args:
        inputs: data, settings and starting point.
        sizes: elements of each of the adapter's tensors.
        trained: whether each trains; at least one does.

    Raises:
        ConfigError: the moments belong to another adapter.
    """

    def __init__(
        self, inputs: TrainingInputs, sizes: Sequence[int], trained: Sequence[bool], *, task: Task, device: torch.device
    ) -> None:
        settings = inputs.settings
        self._inputs = inputs
        self._task = task
        self._optimizer = FlatAdamW(
            inputs.start,
            sizes,
            trained,
            weight_decay=settings.weight_decay,
            moments=inputs.moments,
            device=device,
        )
        master = self._optimizer.master
        self._terms = terms_of(settings)
        self._origin = master.clone() if self._terms else master
        self._correction = (
            None
            if inputs.drift is None
            else self._optimizer.where_trained(torch.from_numpy(inputs.drift.copy()).to(device))
        )
        self._slope = None if inputs.slope is None else torch.from_numpy(inputs.slope.copy()).to(device)
        self._order = order(len(inputs.examples), settings.seed)
        self._losses: list[float] = []
        self._tokens = 0

    @property
    def values(self) -> tuple[Tensor, ...]:
        """The adapter, tensor by tensor, each flat, float32."""
        return self._optimizer.values

    def draw(self) -> tuple[list[list[Example]], int]:
        """The next step's examples, micro-batch by micro-batch, and the total number of terms of their losses."""
        chosen = [self._inputs.examples[next(self._order)] for _ in range(self._inputs.examples_a_step)]
        self._tokens += sum(len(example.tokens) for example in chosen)
        size = self._inputs.settings.batch_size
        batches = [chosen[first : first + size] for first in range(0, len(chosen), size)]
        return batches, sum(count_labels(example, self._task) for example in chosen)

    def step(self, gradients: Sequence[Tensor | None], loss: float) -> None:
        """Take a step along the gradients of the tensors; `loss` is that of the step's examples before it."""
        settings, optimizer = self._inputs.settings, self._optimizer
        gradient = optimizer.gradient
        optimizer.take(gradients)
        for term in self._terms:
            term.add_gradient(gradient, optimizer.master, self._origin, settings)
        if self._slope is not None:
            gradient.sub_(self._slope)
        if self._terms or self._slope is not None:
            optimizer.where_trained(gradient)
        kept = _clip_(gradient, settings.max_grad_norm)
        before = optimizer.master.clone()
        optimizer.step(settings.learning_rate * schedule_factor(settings, settings.done_steps + len(self._losses)))
        _shorten_(optimizer.master, before, gradient, kept)
        if self._correction is not None:
            optimizer.master.add_(self._correction)
        self._losses.append(loss)

    def finish(self, seconds: float) -> LocalTraining:
        """The result after steps that took this many seconds."""
        report = StepReport(sum(self._losses) / len(self._losses), self._tokens, seconds, self._losses[0])
        flat = self._optimizer.master.cpu().numpy().copy()
        return LocalTraining(flat, report, self._optimizer.moments(len(self._losses)))


def schedule_factor(settings: Settings, step: int) -> float:
    """Learning rate at a step of the whole run, as a fraction of its peak.

    Args:
        settings: ``lr_schedule``, ``warmup_steps`` and ``total_steps``.
        step: steps done before this one, over all rounds.
    """
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    if settings.lr_schedule == "constant":
        return 1.0
    rest = max(1, settings.total_steps - settings.warmup_steps)
    done = min(1.0, (step - settings.warmup_steps) / rest)
    return 1.0 - done if settings.lr_schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


@torch.no_grad()
def _clip_(gradient: Tensor, longest: float) -> Tensor:
    """As torch's clip_grad_norm_ does; returns the factor."""
    factor = (longest / (gradient.norm() + 1e-6)).clamp(max=1.0)
    gradient.mul_(factor)
    return factor


@torch.no_grad()
def _shorten_(after: Tensor, before: Tensor, gradient: Tensor, kept: Tensor) -> None:
    """Shorten the step from `before` to `after` so that it predicts a fall of the loss by `LARGEST_FALL` at most.

    Args:
        after: (size,) changed in place.
        before: (size,)
        gradient: (size,) of the loss at `before`, times `kept`.
        kept: the factor of clipping, 0 to 1.
    """
    predicted = float(gradient @ (before - after) / kept)
    if LARGEST_FALL < predicted < math.inf:
        after.lerp_(before, 1 - LARGEST_FALL / predicted)


def order(count: int, seed: int) -> Iterator[int]:
    """The order of the examples: all once in random order, then all again in another order, without end.

    Args:
        count: how many there are.
        seed: decides the order.
    """
    generator = np.random.default_rng(seed)
    while True:
        yield from (int(index) for index in generator.permutation(count))
