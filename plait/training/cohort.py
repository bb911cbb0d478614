"""Train the adapters of several clients in one forward and backward pass through the frozen base that they share.

Every adapter has its own rows in the batch, its own factors, optimizer and data order, and takes the same steps as it
would alone, within rounding: a few large matrix products replace many small ones. Only for bases that `fused` supports.
Knows nothing of rounds and bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import nn

from plait.abandon import check_abandoned
from plait.adapters import Task
from plait.training.examples import Example
from plait.training.fused import FusedLanguageModel, recognise
from plait.training.fused.language_model import Pairs
from plait.training.learner import Learner, LocalTraining, TrainingInputs
from plait.training.loss_scale import LossScale
from plait.training.step_memory import StepMemory
from plait.training.trainer import trained_parameters

Tensor = torch.Tensor


def train_cohort(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    all_inputs: Sequence[TrainingInputs],
    *,
    task: Task,
    memory: StepMemory | None = None,
) -> list[LocalTraining] | None:
    """The results of `train_steps` for all inputs, in order, within rounding.

    Args:
        model: the base with an adapter of their layout on; its values do not matter and are not changed.
        parameters: the adapter's parameters in layout order.
        all_inputs: one per adapter; equal in steps, sequences per step and trained sides.

    Returns:
        One result for each, or None if this base or these inputs can only be trained one by one.

    Raises:
        ConfigError: no part of this adapter trains, or the moments belong to another adapter.
        Abandoned: the result is no longer needed.
    """
    fused = recognise(model.train()) if task is Task.CAUSAL_LM else None
    if fused is None or len({_shape(inputs) for inputs in all_inputs}) != 1:
        return None
    examples = [example for inputs in all_inputs for example in inputs.examples]
    if not fused.takes(examples):
        return None
    started = time.perf_counter()
    trained = trained_parameters(model, parameters, all_inputs[0].settings.trained)
    sizes = [parameter.numel() for parameter in parameters]
    device = parameters[0].device
    devices = [device] * len(sizes)
    learners = [Learner(inputs, sizes, trained, task=task, devices=devices) for inputs in all_inputs]
    stacks = [
        torch.empty((len(all_inputs), *parameter.shape), dtype=parameter.dtype, device=device)
        for parameter in parameters
    ]
    for stack, trains in zip(stacks, trained, strict=True):
        stack.requires_grad_(trains)
    places = {id(parameter): stack for parameter, stack in zip(parameters, stacks, strict=True)}
    memory = memory or StepMemory()
    scale, views = LossScale.of(model.parameters()), _by_learner(stacks, len(learners))
    for _ in range(all_inputs[0].settings.steps_taken):
        _follow(views, learners)
        batches = list(zip(*(_micro_batches(learner) for learner in learners), strict=True))
        losses, is_finite = scale.settle(partial(_backward, fused, batches, stacks, places, memory, scale))
        _step(learners, losses, stacks, scale, is_finite=is_finite)
        check_abandoned()
    seconds = (time.perf_counter() - started) / len(learners)
    return [learner.finish(seconds) for learner in learners]


def _step(
    learners: Sequence[Learner],
    losses: Sequence[float],
    stacks: Sequence[torch.Tensor],
    scale: LossScale,
    *,
    is_finite: bool,
) -> None:
    """Let each learner step by its own part of the gradients, or skip what overflows; the gradients are gone then."""
    for number, (learner, loss) in enumerate(zip(learners, losses, strict=True)):
        gradients = [None if stack.grad is None else stack.grad[number] for stack in stacks]
        if is_finite or not bool(scale.overflows(gradients)):
            learner.step(gradients, loss, scale=scale.factor)
        else:
            learner.skip()
    if is_finite:
        scale.held()
    for stack in stacks:
        stack.grad = None


def _backward(
    fused: FusedLanguageModel,
    batches: Sequence[Sequence[tuple[list[Example], int]]],
    stacks: Sequence[Tensor],
    places: Mapping[int, Tensor],
    memory: StepMemory,
    scale: LossScale,
) -> tuple[list[float], bool]:
    """Compute a step's gradients, in the stacks, and return each adapter's loss and whether any overflowed."""
    for stack in stacks:
        stack.grad = None  # a failed attempt may have left some
    said: list[Tensor] = []
    for micro in batches:
        found = torch.stack(_losses(fused, micro, fused.pairs_of(places), memory))
        scale.applied(found.sum()).backward()
        said.append(found.detach())
    if scale.adapts:
        said.append(scale.overflows(stack.grad for stack in stacks).expand(len(said[0])))
    read = torch.stack(said).tolist()  # once: each read waits for a GPU
    overflowed = scale.adapts and bool(read.pop()[0])
    return [sum(column) for column in zip(*read, strict=True)], overflowed


def _shape(inputs: TrainingInputs) -> tuple[object, ...]:
    settings = inputs.settings
    return (
        settings.steps_taken,
        settings.batch_size,
        settings.gradient_accumulation_steps,
        settings.trained,
        len(inputs.start),
    )


def _micro_batches(learner: Learner) -> Iterator[tuple[list[Example], int]]:
    batches, counted = learner.draw()
    return ((batch, counted) for batch in batches)


def _losses(
    fused: FusedLanguageModel,
    batches: Sequence[tuple[list[Example], int]],
    pairs: Pairs,
    memory: StepMemory,
) -> list[Tensor]:
    """Each adapter's part of its step's loss."""
    rows = [example for batch, _ in batches for example in batch]
    losses, counts = fused.token_losses(
        rows,
        adapters=len(batches),
        pairs=pairs,
        recomputed=memory.recomputed,
        slice_elements=memory.slice_elements,
    )
    bounds = list(accumulate(counts, initial=0))
    size = len(batches[0][0])
    return [
        losses[bounds[at * size] : bounds[(at + 1) * size]].sum() / counted for at, (_, counted) in enumerate(batches)
    ]


def _by_learner(stacks: Sequence[Tensor], learners: int) -> list[Tensor]:
    """Each learner's part of each stack, learner by learner; views."""
    with torch.no_grad():
        return [stack[number] for number in range(learners) for stack in stacks]


@torch.no_grad()
def _follow(views: Sequence[Tensor], learners: Sequence[Learner]) -> None:
    values = [value for learner in learners for value in learner.values]
    shaped = [value.view_as(view) for value, view in zip(values, views, strict=True)]
    torch._foreach_copy_(list(views), shaped)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
