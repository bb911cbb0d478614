"""One adapter in training: AdamW (arXiv 1711.05101) on a flat float32 master, the learning rate, the limits of a step.

AdamW's epsilon is so small that steps never become proportional to gradients. With the usual 1e-8, a server that sends
tiny factors would receive the gradient itself, and from it the tokens of a batch (DAGER, arXiv 2405.15586).
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import reduce
from itertools import groupby, islice

import torch
from torch import nn

from plait.adapters import AdapterState, AdapterTask, Float32
from plait.errors import ConfigError, MachineError
from plait.objectives import SFT
from plait.rounds.local_model import NOTHING, Carried, Moments, StepReport, Trained
from plait.training.examples import Example, Tokenizer, count_labels, order
from plait.wire.settings import Settings

Tensor = torch.Tensor

SMALLEST_GRADIENT = 1e-15
"""Gradients below it count as zero: their squares would not be exact in float32."""
EPSILON = 1e-20
_PIECE = 1 << 22  # numbers

LARGEST_FALL = 0.25
"""Largest fall of the batch's loss that a step may predict to first order, as a fraction of that loss.

It limits a step's effect on the model, so it means the same for every method, rank and base; a longer step is
shortened to it. Without a given learning rate, a client takes the one with which its first step reaches the limit, but
none larger than the values of a tensor that this step does not move (one of VeRA's scales begins at 0.1; without that
bound 1.3 would be found). A classifier's first step moves its head alone, so it reaches the limit at any rate.
This is the stochastic Polyak step size with a maximum (SPS_max; arXiv 2002.10542, eq. 4) along AdamW's direction."""

_STEADY = 4 * 63  # tokens that a batch counts of the texts on which the fraction was chosen: 4 sequences of 64
_LEAST = 0.25  # no step makes the next one more than four times as long


@dataclass(frozen=True)
class TrainingInputs:
    """The data, settings and starting point of one adapter's training."""

    examples: Sequence[Example]
    settings: Settings
    start: AdapterState
    carried: Carried = NOTHING
    _: KW_ONLY
    task: AdapterTask = AdapterTask.CAUSAL_LM
    pad_token: int = 0
    tokenizer: Tokenizer | None = None


class Learner:
    """One adapter in training, of whose tensors some may train; ConfigError if the moments are another's."""

    def __init__(self, inputs: TrainingInputs, trained: Sequence[bool], *, device: torch.device) -> None:
        settings, carried, layout = inputs.settings, inputs.carried, inputs.start.layout
        sizes = [slot.size for slot in layout.slots]
        if (before := carried.moments) and not (
            len(before.mean) == len(before.square) == layout.size and len(before.steps) == len(sizes)
        ):
            raise ConfigError(
                f"the optimizer's moments are of {len(before.mean)} values in {len(before.steps)} tensors, "
                f"expected {layout.size} in {len(sizes)}"
            )
        self._inputs = inputs
        self._sizes, self._trained = sizes, list(trained)
        self._optimizer = FlatAdamW(
            inputs.start.flat, sizes, trained, weight_decay=settings.weight_decay, moments=before, device=device
        )
        self._origin = self._optimizer.master.clone() if settings.proximal else self._optimizer.master
        self._movement = None if carried.movement is None else torch.from_numpy(carried.movement)
        self._along: float | None = None
        self._rate = settings.learning_rate or inputs.carried.learning_rate or 0.0
        self._shortened = self._skipped = 0
        self._follows = settings.lr_schedule == "slope"
        self._moved: Sequence[Tensor] = ()  # by the last step, in `_pieces`
        self._was_shortened = False
        part = settings.part_of(len(inputs.examples))
        self.steps = settings.steps_on(len(inputs.examples))
        self._order = islice(
            order(inputs.examples, settings.seed, inputs.task), part.start, part.stop if settings.round_epochs else None
        )
        self._losses: list[float] = []
        self._tokens = 0
        self._largest_fall = LARGEST_FALL

    @property
    def values(self) -> tuple[Tensor, ...]:
        """The adapter, tensor by tensor, each flat, float32; views."""
        return self._optimizer.master.split(self._sizes)

    def draw(self) -> tuple[list[list[Example]], int]:
        """The next step's examples, micro-batch by micro-batch, and the total number of terms of their losses."""
        task, settings = self._inputs.task, self._inputs.settings
        size = settings.batch_size
        chosen = [self._inputs.examples[index] for index in islice(self._order, settings.step_examples)]
        self._tokens += sum(len(example.tokens) for example in chosen)
        batches = [chosen[first : first + size] for first in range(0, len(chosen), size)]
        counted = sum(count_labels(example, task) for example in chosen)
        has_prompts = counted < sum(len(example.tokens) - 1 for example in chosen)
        is_answers = has_prompts and task is AdapterTask.CAUSAL_LM and settings.objective == SFT
        self._largest_fall = _largest_fall(counted) if is_answers else LARGEST_FALL
        return batches, counted

    def step(
        self, gradients: Sequence[Tensor | None], loss: float, *, scale: float = 1.0, is_limited: bool = True
    ) -> None:
        """Take a step; `is_limited`: whether the gradients are of this loss, which then limits the step."""
        settings, optimizer = self._inputs.settings, self._optimizer
        flat, master = optimizer.gradient, optimizer.master
        optimizer.take(gradients)
        if scale != 1:
            flat.div_(scale)
        if self._movement is not None and is_limited:
            self._along = _slope_along(self._movement, flat)
        self._movement = None
        if self._follows and is_limited and self._moved:
            most = self._largest_fall * abs(loss)
            self._rate *= _factor_by(self._moved, flat, most, was_shortened=self._was_shortened)
        self._moved = ()  # this step's own copies may have its memory
        self._add_proximal()
        kept = _clip_(flat, settings.max_grad_norm)
        before = [piece.clone() for piece in _pieces(master)]
        # A client with a number of steps of its own goes through the round's part of the schedule in these.
        done = (len(self._losses) + self._skipped) * settings.local_steps / self.steps
        factor = schedule_factor(settings, settings.done_steps + done)
        optimizer.step((self._rate or 1.0) * factor)
        predicted = _predicted_fall(flat, before, master, kept)
        # A user's own loss may be negative.
        limit = self._largest_fall * abs(loss) if is_limited else math.inf
        self._was_shortened = False
        if not self._rate:
            # A step is linear in the learning rate, so one of 1 shows which rate to take.
            found = limit * factor / predicted if 0 < predicted < math.inf else 0.0
            at_rest = _smallest_at_rest(torch.cat(before).split(self._sizes), flat.split(self._sizes), self._trained)
            self._rate = min(found, at_rest)
            if math.isfinite(predicted):
                # A classifier's first step moves its head alone, unlike the tensors at rest.
                _shorten_(master, before, self._rate if self._inputs.task is AdapterTask.CAUSAL_LM else found)
            self._rate *= settings.found_rate_factor
        elif limit < predicted < math.inf:
            _shorten_(master, before, limit / predicted)
            self._shortened += 1
            self._was_shortened = True
        if self._follows:
            self._moved = _moved_(master, before)
        optimizer.forget()
        self._losses.append(loss)

    def skip(self) -> None:
        """Take no step: these gradients allow none."""
        self._skipped += 1

    def noised_step(self, gradient: Float32) -> None:
        """Step along a noised gradient, (size,): neither clipped nor shortened, and reported with a loss of 0."""
        settings = self._inputs.settings
        self._optimizer.gradient.copy_(torch.from_numpy(gradient))
        self._add_proximal()
        self._optimizer.step(self._rate * schedule_factor(settings, settings.done_steps + len(self._losses)))
        self._optimizer.forget()
        self._losses.append(0.0)

    def _add_proximal(self) -> None:
        if mu := self._inputs.settings.proximal:
            self._optimizer.gradient.add_(self._optimizer.master - self._origin, alpha=mu)

    def finish(self, seconds: float) -> Trained:
        """The result after steps that took this many seconds."""
        steps = len(self._losses)
        if not steps:
            raise MachineError(f"all {self._skipped} steps overflowed float16: give --dtype float32, or bfloat16")
        report = StepReport(
            sum(self._losses) / steps,
            self._tokens,
            seconds,
            first_loss=self._losses[0],
            slope=self._along,
            learning_rate=self._rate or None,
            shortened=self._shortened / steps,
        )
        state = AdapterState(self._inputs.start.layout, self._optimizer.master.cpu().numpy().copy())
        return Trained(state, report, self._optimizer.moments(steps))


def schedule_factor(settings: Settings, step: float) -> float:
    """Learning rate at a step of the whole run, as a fraction of its peak."""
    if settings.lr_schedule in ("constant", "slope"):
        return 1.0
    first, steps = 0, settings.total_steps
    if settings.lr_schedule_over == "round":
        first, steps = settings.done_steps, settings.local_steps
    passed = min(1.0, (step - first) / max(1, steps))
    return (1.0 + math.cos(math.pi * passed)) / 2 if settings.lr_schedule == "cosine" else 1.0 - passed


def _pieces(values: Tensor) -> tuple[Tensor, ...]:
    """Views of (size,) values; on a CPU of so many that memory which the model's step has freed takes copies in."""
    return values.split(_PIECE if values.device.type == "cpu" else max(1, len(values)))


@torch.no_grad()
def _slope_along(movement: Tensor, gradient: Tensor) -> float:
    """Of copies, in pieces: a product's bits depend on where its vectors lie, and numpy puts them anywhere."""
    pieces = _pieces(gradient)
    copies = (part.to(gradient.device, copy=True) for part in movement.split(len(pieces[0])))
    return float(reduce(torch.add, [piece @ copy for piece, copy in zip(pieces, copies, strict=True)]))


def _largest_fall(counted: int) -> float:
    """`LARGEST_FALL`, more for a batch of few answer tokens: the noise that a step fits is as one over their root."""
    return min(1.0, LARGEST_FALL * math.sqrt(max(1.0, _STEADY / max(1, counted))))


@torch.no_grad()
def _factor_by(moved: Sequence[Tensor], gradient: Tensor, most: float, *, was_shortened: bool) -> float:
    """The learning rate's factor by the next batch's slope along the last step (hypergradient, arXiv 1703.04782).

    The measure is the most that a step may predict. A shortened step is no reason for a higher rate, which did not
    decide its length.
    """
    slope = sum(float(along @ piece) for along, piece in zip(_pieces(gradient), moved, strict=True))
    if not (math.isfinite(slope) and 0 < most < math.inf):
        return 1.0
    relative = max(0.0 if was_shortened else -1.0, min(1.0, slope / most))
    return 1 / max(_LEAST, 1 + relative)


@torch.no_grad()
def _moved_(after: Tensor, before: Sequence[Tensor]) -> Sequence[Tensor]:
    for piece, was in zip(_pieces(after), before, strict=True):
        torch.sub(piece, was, out=was)
    return before


@torch.no_grad()
def _clip_(gradient: Tensor, longest: float) -> Tensor:
    """As torch's clip_grad_norm_ does; returns the factor."""
    factor = (longest / (gradient.norm() + 1e-6)).clamp(max=1.0)
    gradient.mul_(factor)
    return factor


def _smallest_at_rest(values: Sequence[Tensor], gradients: Sequence[Tensor], trained: Sequence[bool]) -> float:
    """The smallest root mean square of the tensors that train but have no gradient yet; infinite if there are none."""
    sizes = [
        value.square().mean().sqrt().item()
        for value, gradient, trains in zip(values, gradients, trained, strict=True)
        if trains and not gradient.any()
    ]
    return min(filter(None, sizes), default=math.inf)


@torch.no_grad()
def _predicted_fall(gradient: Tensor, before: Sequence[Tensor], after: Tensor, kept: Tensor) -> float:
    """The fall of the batch's loss that a step predicts to first order, in nats; `kept` is the factor of clipping."""
    steps = zip(_pieces(gradient), before, _pieces(after), strict=True)
    return float(reduce(torch.add, [along @ (was - now) for along, was, now in steps]) / kept)


@torch.no_grad()
def _shorten_(after: Tensor, before: Sequence[Tensor], fraction: float) -> None:
    for piece, was in zip(_pieces(after), before, strict=True):
        piece.lerp_(was, 1 - fraction)


class FlatAdamW:
    """AdamW over one flat buffer, `master` (size,) float32, of which some tensors train."""

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
        self._gradient: Tensor | None = None
        self._sizes = list(sizes)
        self._trained = list(trained)
        self._steps_before = before.steps
        self._mean, self._square = (torch.from_numpy(x.copy()).to(device) for x in (before.mean, before.square))
        self._runs = _runs(sizes, trained, before.steps)
        # Views: a step on them is a step on the buffers.
        self._parameters = [nn.Parameter(self.master[run]) for run, _ in self._runs]
        self._optimizer = torch.optim.AdamW(self._parameters, weight_decay=weight_decay, eps=EPSILON, fused=True)
        for (run, steps), parameter in zip(self._runs, self._parameters, strict=True):
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(steps), device=device),
                "exp_avg": self._mean[run],
                "exp_avg_sq": self._square[run],
            }

    @property
    def gradient(self) -> Tensor:
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
    def take(self, gradients: Sequence[Tensor | None]) -> None:
        """Fill the gradient from those of the tensors, of any type; None and untrained tensors are zero."""
        slots: list[Tensor] = []
        given: list[Tensor] = []
        for slot, gradient, trains in zip(self.gradient.split(self._sizes), gradients, self._trained, strict=True):
            if gradient is None or not trains:
                slot.zero_()
            else:
                slots.append(slot.view_as(gradient))
                given.append(gradient)
        copy_all(slots, given)

    def step(self, learning_rate: float) -> None:
        """Take a step along the gradient."""
        torch.hardshrink(self.gradient, SMALLEST_GRADIENT, out=self.gradient)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        for (run, _), parameter in zip(self._runs, self._parameters, strict=True):
            parameter.grad = self.gradient[run]
        self._optimizer.step()

    def moments(self, steps: int) -> Moments:
        """The moments after this many steps, the last: on a CPU they are the optimizer's own memory."""
        counts = (n + steps if trains else n for n, trains in zip(self._steps_before, self._trained, strict=True))
        return Moments(self._mean.cpu().numpy(), self._square.cpu().numpy(), tuple(counts))


@torch.no_grad()
def copy_all(into: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy tensors into tensors of their shapes: at once, unless they lie on several devices."""
    if not into:
        return
    if len({tensor.device for tensor in (*into, *values)}) == 1:
        torch._foreach_copy_(list(into), list(values))  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        return
    for slot, value in zip(into, values, strict=True):
        slot.copy_(value, non_blocking=True)


def _runs(sizes: Sequence[int], trained: Sequence[bool], steps: Sequence[int]) -> list[tuple[slice, int]]:
    """Neighbouring tensors that train and have taken the same number of steps, and that number."""
    found: list[tuple[slice, int]] = []
    first = 0
    tensors = zip(sizes, trained, steps, strict=True)
    for (trains, seen), neighbours in groupby(tensors, key=lambda tensor: tensor[1:]):
        last = first + sum(size for size, _, _ in neighbours)
        if trains:
            found.append((slice(first, last), seen))
        first = last
    return found
