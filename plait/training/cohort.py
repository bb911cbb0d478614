"""Train the adapters of several clients in one forward and backward pass through the frozen base that they share.

Every adapter has its own rows in the batch, its own factors, optimizer and data order, and takes the same steps as it
would alone, within rounding: a few large matrix products replace many small ones. Only for bases that `fused` supports.
Knows nothing of rounds and bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import nn

from plait.abandon import check_abandoned
from plait.adapters import Task
from plait.training.examples import Example
from plait.training.fused import FusedLanguageModel, recognise
from plait.training.fused.language_model import Pairs
from plait.training.learner import Learner, LocalTraining, TrainingInputs
from plait.training.trainer import trained_parameters

Tensor = torch.Tensor


def train_cohort(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    all_inputs: Sequence[TrainingInputs],
    *,
    task: Task,
    recomputed: int = 0,
) -> list[LocalTraining] | None:
    """The results of `train_steps` for all inputs, in order, within rounding.

    Args:
        model: the base with an adapter of their layout on; its values do not matter and are not changed.
        parameters: the adapter's parameters in layout order.
        all_inputs: one per adapter; equal in steps, sequences per step and trained sides.
        task: what the labels are.
        recomputed: how many of the base's first blocks are computed twice instead of kept.

    Returns:
        One result for each, or None if this base or these inputs can only be trained one by one.

    Raises:
        ConfigError: no part of this adapter trains, or the moments belong to another adapter.
        Abandoned: nobody waits for this any more.
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
    learners = [Learner(inputs, sizes, trained, task=task, device=device) for inputs in all_inputs]
    stacks = [
        torch.empty((len(all_inputs), *parameter.shape), dtype=parameter.dtype, device=device)
        for parameter in parameters
    ]
    for stack, trains in zip(stacks, trained, strict=True):
        stack.requires_grad_(trains)
    places = {id(parameter): stack for parameter, stack in zip(parameters, stacks, strict=True)}
    for _ in range(all_inputs[0].settings.steps_taken):
        _follow(stacks, learners)
        losses = [0.0] * len(learners)
        for batches in zip(*(_micro_batches(learner) for learner in learners), strict=True):
            found = _losses(fused, batches, fused.pairs_of(places), recomputed=recomputed)
            torch.stack(found).sum().backward()
            losses = [loss + more for loss, more in zip(losses, torch.stack(found).tolist(), strict=True)]
        for number, (learner, loss) in enumerate(zip(learners, losses, strict=True)):
            learner.step([None if stack.grad is None else stack.grad[number] for stack in stacks], loss)
        for stack in stacks:
            stack.grad = None
        check_abandoned()
    seconds = (time.perf_counter() - started) / len(learners)
    return [learner.finish(seconds) for learner in learners]


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
    *,
    recomputed: int,
) -> list[Tensor]:
    """Each adapter's part of its step's loss."""
    rows = [example for batch, _ in batches for example in batch]
    losses, counts = fused.token_losses(rows, adapters=len(batches), pairs=pairs, recomputed=recomputed)
    bounds = list(accumulate(counts, initial=0))
    size = len(batches[0][0])
    return [
        losses[bounds[at * size] : bounds[(at + 1) * size]].sum() / counted for at, (_, counted) in enumerate(batches)
    ]


@torch.no_grad()
def _follow(stacks: Sequence[Tensor], learners: Sequence[Learner]) -> None:
    for number, learner in enumerate(learners):
        for stack, values in zip(stacks, learner.values, strict=True):
            stack[number].copy_(values.view_as(stack[number]))
