"""One adapter in training: its optimizer, the order of its examples, and the additions to its steps.

Knows no model: the caller passes gradients and losses and takes values and examples. So an adapter trained alone and
adapters trained in one batch take the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch

from plait.adapters import Float32, Task
from plait.errors import MachineError
from plait.rounds.local_model import NOTHING, Carried
from plait.rounds.moments import Moments
from plait.training.examples import Example
from plait.training.loss_terms import terms_of
from plait.training.losses import count_labels
from plait.training.optimizer import FlatAdamW
from plait.wire.settings import Settings

Tensor = torch.Tensor

_PIECE = 1 << 22  # numbers

LARGEST_FALL = 0.25
"""Largest fall of the batch's loss that a step may predict to first order, as a fraction of that loss.

It limits a step's effect on the model rather than on its parameters, so it means the same for every method, rank and
base. A longer step is shortened to it, so a learning rate that is too high learns instead of diverging. Without a
given learning rate, a client takes the one with which its first step just reaches the limit, but none larger than the
values of a tensor that this step does not move. (One of VeRA's two scales begins at 0.1; without that bound 1.3 would
be found.) Together this is the stochastic Polyak step size with a maximum (SPS_max; Loizou et al., arXiv 2002.10542,
eq. 4) along AdamW's direction instead of the gradient's, where the first step sets the maximum. The fraction was
chosen in `simulations/defaults`."""


@dataclass(frozen=True)
class TrainingInputs:
    """The data, settings and starting point of one adapter's training.

    Attributes:
        settings: steps, batch, learning rate, schedule, seed, which sides train, loss terms.
        start: (size,) the adapter before; not changed.
        carried: AdamW's moments, SCAFFOLD's and FedDyn's corrections, learning rate and the adapter's last movement.
    """

    examples: Sequence[Example]
    settings: Settings
    start: Float32
    carried: Carried = NOTHING

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
        slope: of that loss along the movement that was carried in, in nats; None without one.
        learning_rate: peak learning rate; None if the trainer does not report it, or none was found.
        shortened: fraction of the steps that were shortened; None if the trainer does not report it.
        reward: mean reward of the completions; None where nothing is rewarded.
        refused_completions: completions whose reward was no finite number; None likewise.
    """

    loss: float
    tokens: int
    seconds: float
    first_loss: float | None = None
    slope: float | None = None
    learning_rate: float | None = None
    shortened: float | None = None
    reward: float | None = None
    refused_completions: int | None = None


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
            moments=inputs.carried.moments,
            device=device,
        )
        master = self._optimizer.master
        self._terms = terms_of(settings)
        self._origin = master.clone() if self._terms else master
        self._correction = (
            None
            if inputs.carried.drift is None
            else self._optimizer.where_trained(torch.from_numpy(inputs.carried.drift.copy()).to(device))
        )
        self._slope = None if inputs.carried.slope is None else torch.from_numpy(inputs.carried.slope.copy()).to(device)
        movement = inputs.carried.movement
        self._movement = None if movement is None else torch.from_numpy(movement)
        self._along: float | None = None
        self._rate = settings.learning_rate or inputs.carried.learning_rate or 0.0
        self._sizes, self._trained = sizes, trained
        self._shortened = self._skipped = 0
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

    def step(
        self, gradients: Sequence[Tensor | None], loss: float, *, scale: float = 1.0, is_limited: bool = True
    ) -> None:
        """Take a step.

        Args:
            gradients: of the tensors, times `scale`.
            loss: of the step's examples before it.
            scale: a power of two.
            is_limited: whether it is the loss that the gradients are of, so that it limits the step.
        """
        settings, optimizer = self._inputs.settings, self._optimizer
        gradient = optimizer.gradient
        optimizer.take(gradients)
        if scale != 1:
            gradient.div_(scale)
        if self._movement is not None and is_limited:
            self._along = _slope_along(self._movement, gradient)
        self._movement = None
        for term in self._terms:
            term.add_gradient(gradient, optimizer.master, self._origin, settings)
        if self._slope is not None:
            gradient.sub_(self._slope)
        if self._terms or self._slope is not None:
            optimizer.where_trained(gradient)
        kept = _clip_(gradient, settings.max_grad_norm)
        before = [piece.clone() for piece in _pieces(optimizer.master)]
        # A client with a budget of its own goes through the round's part of the schedule in its own number of steps.
        done = len(self._losses) + self._skipped
        done = done if not settings.steps else done * settings.local_steps / settings.steps
        factor = schedule_factor(settings, settings.done_steps + done)
        optimizer.step((self._rate or 1.0) * factor)
        predicted = _predicted_fall(gradient, before, optimizer.master, kept)
        # A user's own loss may be negative.
        limit = LARGEST_FALL * abs(loss) if is_limited else math.inf
        if not self._rate:
            # A step is linear in the learning rate, so one of 1 tells which rate to take.
            longest = _smallest_at_rest(
                torch.cat(before).split(self._sizes), gradient.split(self._sizes), self._trained
            )
            self._rate = min(limit * factor / predicted, longest) if 0 < predicted < math.inf else 0.0
            if math.isfinite(predicted):
                _shorten_(optimizer.master, before, self._rate)
        elif limit < predicted < math.inf:
            _shorten_(optimizer.master, before, limit / predicted)
            self._shortened += 1
        optimizer.forget()
        if self._correction is not None:
            optimizer.master.add_(self._correction)
        self._losses.append(loss)

    def skip(self) -> None:
        """Take no step: along these gradients there is none."""
        self._skipped += 1

    def noised_step(self, gradient: Tensor) -> None:
        """Take a step along a gradient that is noised already, (size,), and nothing else that the data say.

        So the step is neither clipped again nor shortened by its loss, which is not known here and reported as 0.
        """
        settings, optimizer = self._inputs.settings, self._optimizer
        optimizer.gradient.copy_(gradient)
        for term in self._terms:
            term.add_gradient(optimizer.gradient, optimizer.master, self._origin, settings)
        if self._slope is not None:
            optimizer.gradient.sub_(self._slope)
        optimizer.step(self._rate * schedule_factor(settings, settings.done_steps + len(self._losses)))
        optimizer.forget()
        if self._correction is not None:
            optimizer.master.add_(self._correction)
        self._losses.append(0.0)

    def finish(self, seconds: float) -> LocalTraining:
        """The result after steps that took this many seconds.

        Raises:
            MachineError: there was none to take.
        """
        steps = len(self._losses)
        if not steps:
            raise MachineError(
                f"all {self._skipped} steps overflowed float16, expected a type that holds what this base computes: "
                "give --dtype float32, or bfloat16"
            )
        report = StepReport(
            sum(self._losses) / steps,
            self._tokens,
            seconds,
            first_loss=self._losses[0],
            slope=self._along,
            learning_rate=self._rate or None,
            shortened=self._shortened / steps,
        )
        flat = self._optimizer.master.cpu().numpy().copy()
        return LocalTraining(flat, report, self._optimizer.moments(steps))


def schedule_factor(settings: Settings, step: float) -> float:
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


def _pieces(values: Tensor) -> tuple[Tensor, ...]:
    """Views of (size,) values; on a CPU of so many that memory which the model's step has freed takes copies in."""
    return values.split(_PIECE if values.device.type == "cpu" else max(1, len(values)))


@torch.no_grad()
def _slope_along(movement: Tensor, gradient: Tensor) -> float:
    """The gradient times a movement on the host, both (size,).

    The bits of a product depend on where its vectors lie, and numpy puts them anywhere. So it is of copies, in pieces.
    """
    pieces = _pieces(gradient)
    copies = (part.to(gradient.device, copy=True) for part in movement.split(len(pieces[0])))
    return float(reduce(torch.add, [piece @ copy for piece, copy in zip(pieces, copies, strict=True)]))


@torch.no_grad()
def _clip_(gradient: Tensor, longest: float) -> Tensor:
    """As torch's clip_grad_norm_ does; returns the factor."""
    factor = (longest / (gradient.norm() + 1e-6)).clamp(max=1.0)
    gradient.mul_(factor)
    return factor


def _smallest_at_rest(values: Sequence[Tensor], gradients: Sequence[Tensor], trained: Sequence[bool]) -> float:
    """The smallest root mean square of the tensors that train but have no gradient yet; infinite if there are none.

    Args:
        values: of each tensor, flat.
        gradients: of each tensor, flat.
        trained: whether each trains.
    """
    sizes = [
        value.square().mean().sqrt().item()
        for value, gradient, trains in zip(values, gradients, trained, strict=True)
        if trains and not gradient.any()
    ]
    return min(filter(None, sizes), default=math.inf)


@torch.no_grad()
def _predicted_fall(gradient: Tensor, before: Sequence[Tensor], after: Tensor, kept: Tensor) -> float:
    """The fall of the batch's loss that a step predicts to first order, in nats.

    Args:
        gradient: (size,) of the loss before the step, times `kept`.
        before: the values before the step, in `_pieces`.
        after: (size,) the values after it.
        kept: the factor of clipping, 0 to 1.
    """
    pieces = zip(_pieces(gradient), before, _pieces(after), strict=True)
    falls = [along @ (was - now) for along, was, now in pieces]
    return float(reduce(torch.add, falls) / kept)


@torch.no_grad()
def _shorten_(after: Tensor, before: Sequence[Tensor], fraction: float) -> None:
    """Keep this fraction of the step from `before`, in `_pieces`, to `after`, which is changed in place."""
    for piece, was in zip(_pieces(after), before, strict=True):
        piece.lerp_(was, 1 - fraction)


def order(count: int, seed: int) -> Iterator[int]:
    """The order of the examples: all once in random order, then all again in another order, without end.

    Args:
        count: how many there are.
        seed: decides the order.
    """
    generator = np.random.default_rng(seed)
    while True:
        yield from (int(index) for index in generator.permutation(count))
