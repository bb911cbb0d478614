"""The local trainer: AdamW on the adapter of a frozen base, for a number of steps, from a seed.

Knows nothing of rounds, peers or bytes: settings, examples and a model in, the mean loss out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from plait.adapters import Float32, Task
from plait.training.examples import IGNORED, Example
from plait.wire.settings import Settings

# Where fewer positions than this count, only those are widened to float32: at 49,152 words each they are the bulk.
_MOSTLY = 0.75


@dataclass(frozen=True)
class StepReport:
    """What a training run did.

    Attributes:
        loss: mean over its steps of the mean loss a step, in nats.
        tokens: tokens that went through the model, padding not counted.
        seconds: wall time.
    """

    loss: float
    tokens: int
    seconds: float


def train_steps(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    examples: Sequence[Example],
    settings: Settings,
    *,
    start: Float32,
    task: Task,
    pad_token: int,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> tuple[Float32, StepReport]:
    """Train an adapter for `settings.local_steps` optimizer steps.

    The optimizer works on one flat float32 buffer, the master; the model computes with `parameters`, which follow it
    and may be in bfloat16 (mixed precision with float32 masters, arXiv 1710.03740). The order of examples, and dropout,
    follow from `settings.seed`. A step's loss is the mean over all its label tokens, however they fall on its
    micro-batches.

    Args:
        model: the base with the adapter on.
        parameters: the adapter's parameters in layout order; overwritten.
        examples: what to train on.
        settings: steps, batch, learning rate, schedule, seed.
        start: (size,) the adapter before; not changed.
        task: what the labels are.
        pad_token: fills up short rows.
        on_step: told number and loss of every step.

    Returns:
        (size,) the adapter after, and what was done.
    """
    started = time.perf_counter()
    device = parameters[0].device
    master = nn.Parameter(torch.from_numpy(start.copy()).to(device))
    sizes = [parameter.numel() for parameter in parameters]
    optimizer = torch.optim.AdamW([master], lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    model.train()
    losses: list[float] = []
    tokens = 0
    per_step = settings.batch_size * settings.gradient_accumulation_steps
    order = _endless(len(examples), np.random.default_rng(settings.seed))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        for step in range(settings.local_steps):
            _follow(parameters, master, sizes)
            chosen = [examples[next(order)] for _ in range(per_step)]
            counted = sum(count_labels(example, task) for example in chosen)
            step_loss = 0.0
            for first in range(0, per_step, settings.batch_size):
                batch = chosen[first : first + settings.batch_size]
                loss = summed_loss(model, batch, task=task, pad_token=pad_token, device=device) / counted
                loss.backward()
                step_loss += loss.item()
                tokens += sum(len(example.tokens) for example in batch)
            master.grad = torch.cat([_gradient(parameter).reshape(-1).float() for parameter in parameters])
            nn.utils.clip_grad_norm_([master], settings.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * schedule_factor(settings, settings.done_steps + step)
            optimizer.step()
            for parameter in parameters:
                parameter.grad = None
            losses.append(step_loss)
            on_step(step, step_loss)
    _follow(parameters, master, sizes)
    report = StepReport(sum(losses) / len(losses), tokens, time.perf_counter() - started)
    return master.detach().cpu().numpy(), report


@torch.no_grad()
def _follow(parameters: Sequence[nn.Parameter], master: torch.Tensor, sizes: Sequence[int]) -> None:
    for parameter, values in zip(parameters, master.split(list(sizes)), strict=True):
        parameter.copy_(values.view_as(parameter))


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    # A parameter that took no part in the forward pass has none.
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@dataclass(frozen=True)
class Judgement:
    """Held-out loss of a model.

    Attributes:
        loss: mean cross-entropy in nats over `counted`.
        counted: label tokens (language model) or examples (classification).
        examples: sequences.
        correct: right classes, for classification.
    """

    loss: float
    counted: int
    examples: int
    correct: int | None


@torch.no_grad()
def judge(model: nn.Module, examples: Sequence[Example], *, task: Task, pad_token: int, batch_size: int) -> Judgement:
    """Mean loss (and right answers) over examples, in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    total, counted, correct = 0.0, 0, 0
    for first in range(0, len(examples), batch_size):
        batch = examples[first : first + batch_size]
        if task is Task.CLASSIFICATION:
            logits, labels = _class_logits(model, batch, pad_token=pad_token, device=device)
            total += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(dim=-1) == labels).sum())
        else:
            total += summed_loss(model, batch, task=task, pad_token=pad_token, device=device).item()
        counted += sum(count_labels(example, task) for example in batch)
    return Judgement(total / counted, counted, len(examples), correct if task is Task.CLASSIFICATION else None)


def summed_loss(
    model: nn.Module, batch: Sequence[Example], *, task: Task, pad_token: int, device: torch.device
) -> torch.Tensor:
    """Cross-entropy in nats, summed over the batch's label tokens (or examples), in float32."""
    if task is Task.CLASSIFICATION:
        logits, labels = _class_logits(model, batch, pad_token=pad_token, device=device)
        return nn.functional.cross_entropy(logits, labels, reduction="sum")
    tokens, mask = pad([example.tokens for example in batch], pad_token, device)
    labels, _ = pad([example.labels for example in batch], IGNORED, device)
    # Targets are shifted, not logits: cutting the last position off the logits would copy all of them.
    targets = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits.flatten(0, 1)
    counts = targets != IGNORED
    if counts.float().mean() < _MOSTLY:
        logits, targets = logits[counts], targets[counts]
    return nn.functional.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")


def count_labels(example: Example, task: Task) -> int:
    """How many terms an example adds to the loss."""
    return 1 if task is Task.CLASSIFICATION else int((example.labels[1:] != IGNORED).sum())


def schedule_factor(settings: Settings, step: int) -> float:
    """Learning rate at a step of the whole run, as a part of its peak.

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


def pad(
    rows: Sequence[np.ndarray[tuple[int], np.dtype[np.int32]]], filler: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rows of different length as one (batch, longest) int64 tensor, and the mask of what is real (None: all of it)."""
    longest = max(len(row) for row in rows)
    block = np.full((len(rows), longest), filler, np.int64)
    for number, row in enumerate(rows):
        block[number, : len(row)] = row
    tensor = torch.from_numpy(block).to(device)
    if all(len(row) == longest for row in rows):
        return tensor, None
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return tensor, (torch.arange(longest, device=device) < lengths[:, None]).long()


def _class_logits(
    model: nn.Module, batch: Sequence[Example], *, pad_token: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, mask = pad([example.tokens for example in batch], pad_token, device)
    labels = torch.tensor([int(example.labels[0]) for example in batch], device=device)
    return model(input_ids=tokens, attention_mask=mask).logits.float(), labels


def _endless(count: int, generator: np.random.Generator) -> Iterator[int]:
    """Indices without end: every example once in random order, then all again in another."""
    while True:
        yield from (int(index) for index in generator.permutation(count))
