"""The local trainer: AdamW on the adapter of a frozen base, for a number of steps, from a seed.

Knows nothing of rounds, peers or bytes: takes settings, examples and a model, returns the mean loss.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from plait.abandon import check_abandoned
from plait.adapters import Task
from plait.errors import ConfigError
from plait.rounds.evaluation import SequenceLosses
from plait.training.device import device_of
from plait.training.examples import Example, Tokenizer, digest_of
from plait.training.learner import Learner, LocalTraining, TrainingInputs, visited
from plait.training.lesson import Taught
from plait.training.losses import BatchLoss, class_logits, count_labels
from plait.training.replicas import Replica, at_once, cards, deal, follow, seed, summed_gradients
from plait.training.step_gradients import StepGradients
from plait.training.step_memory import StepMemory, within_memory
from plait.training.teaching import Teaching, supervised, teaching_of

# PEFT's names of a low-rank pair's two sides; everything else in an adapter (a head, a magnitude) trains with either.
_SIDE = re.compile(r"\.lora_(?:embedding_)?([AB])(?=\.|$)")


def train_steps(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    inputs: TrainingInputs,
    *,
    task: Task,
    pad_token: int,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
    teaching: Teaching | None = None,
    tokenizer: Tokenizer | None = None,
    memory: StepMemory | None = None,
    others: Sequence[Replica] = (),
) -> LocalTraining:
    """Train an adapter for `steps_taken` optimizer steps.

    The optimizer works on one flat float32 buffer, the master; the model computes with `parameters`, which follow it
    and may be in bfloat16 or float16 (mixed precision with float32 masters, arXiv 1710.03740). Dropout and the order of
    examples depend on the settings' seed.

    Args:
        parameters: the adapter's parameters in layout order; overwritten.
        teaching: of the objective, with what it remembers; by default one that remembers nothing.
        memory: what earlier steps gave up to fit into memory; changed if it is not enough.
        others: the same model and adapter on other devices; each step's sequences are dealt out over all of them.

    Raises:
        PartError: a part of the user's own fails.
        MachineError: a step does not fit into memory.
        ConfigError: no part of this adapter trains, or the moments belong to another adapter.
        Abandoned: the result is no longer needed.
    """
    started, settings, memory = time.perf_counter(), inputs.settings, memory or StepMemory()
    trained = trained_parameters(model, parameters, settings.trained)
    sizes, devices = [each.numel() for each in parameters], [each.device for each in parameters]
    learner = Learner(inputs, sizes, trained, task=task, devices=devices)
    replicas = [Replica(model, parameters), *others]
    taught = Taught(settings, inputs.start, task, pad_token, memory, tokenizer)
    lesson = (teaching or teaching_of(settings.objective)).lesson(taught)
    lesson.prepare(replicas, partial(visited, inputs.examples, settings, task))
    gradients = StepGradients.of(lesson, replicas, settings, memory)
    batches, counted = list[list[Example]](), 1
    with in_training(replicas, trained, settings.seed):
        for step in range(settings.steps_taken):
            follow(replicas, learner.values, trained)
            if lesson.draws(step):
                batches, counted = learner.draw()
                lesson.begin(batches, step, [replica.model for replica in others])
            loss, is_finite = gradients.compute(batches, counted)
            loss = lesson.said(loss)
            if is_finite:
                summed, factor = summed_gradients(replicas), gradients.scale.factor
                learner.step(summed, loss, scale=factor, is_limited=lesson.is_limited)
                gradients.scale.held()
            else:
                learner.skip()
            gradients.forget()
            on_step(step, loss)
            check_abandoned()
    follow(replicas, learner.values, trained)
    return lesson.finished(learner.finish(time.perf_counter() - started))


def trained_parameters(model: nn.Module, parameters: Sequence[nn.Parameter], sides: str) -> list[bool]:
    """Which of the parameters train if these sides do.

    Raises:
        ConfigError: none of them.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    matches = [_SIDE.search(names[id(parameter)]) for parameter in parameters]
    trained = [match is None or match[1] in sides for match in matches]
    if not any(trained):
        raise ConfigError(f"trained is '{sides}', but the adapter has no tensor of that side")
    return trained


@contextmanager
def only_trained(parameters: Sequence[nn.Parameter], trained: Sequence[bool]) -> Generator[None]:
    """Require gradients of some parameters only, for a while; the others cost nothing."""
    try:
        for parameter, trains in zip(parameters, trained, strict=True):
            parameter.requires_grad_(trains)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
            parameter.grad = None


@contextmanager
def in_training(replicas: Sequence[Replica], trained: Sequence[bool], number: int) -> Generator[None]:
    """Require gradients of what trains, and let dropout draw from this seed, for a while."""
    with ExitStack() as held:
        for replica in replicas:
            held.enter_context(only_trained(replica.parameters, trained))
        held.enter_context(torch.random.fork_rng(devices=cards(replicas)))
        seed(replicas, number)
        yield


@torch.no_grad()
def measure_losses(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    task: Task,
    pad_token: int,
    batch_size: int,
    teaching: Teaching | None = None,
    memory: StepMemory | None = None,
    others: Sequence[nn.Module] = (),
) -> SequenceLosses:
    """Loss (and correct answers, or leads) of every example, in evaluation mode.

    Args:
        teaching: by which they are judged; None for supervised fine-tuning.
        memory: what earlier steps gave up to fit into memory; changed if it is not enough.
        others: the same model and adapter on other devices; batches are dealt out over all, and their losses have the
            bits of one device.

    Raises:
        MachineError: one sequence does not fit into memory.
        Abandoned: the result is no longer needed.
    """
    model.eval()
    memory = memory or StepMemory()
    batches = [examples[first : first + batch_size] for first in range(0, len(examples), batch_size)]
    models = [model, *others]
    dealt = deal(batches, len(models), size=lambda batch: sum(len(each.tokens) for each in batch))
    measure = partial(_measured, task=task, pad_token=pad_token, teaching=teaching or supervised(), memory=memory)
    found = at_once(
        [(device_of(each), partial(measure, each.eval(), own)) for each, own in zip(models, dealt, strict=True)]
    )
    return SequenceLosses(
        tuple(loss for each in found for loss in each.losses),
        tuple(count_labels(example, task) for example in examples),
        sum(each.correct for each in found) if task is Task.CLASSIFICATION else None,
        digest_of(examples).hex(),
        tuple(lead for each in found for lead in each.leads),
    )


@dataclass
class _Measured:
    losses: list[float] = field(default_factory=list[float])
    leads: list[float] = field(default_factory=list[float])
    correct: int = 0


@torch.no_grad()
def _measured(
    model: nn.Module,
    batches: Sequence[Sequence[Example]],
    *,
    task: Task,
    pad_token: int,
    teaching: Teaching,
    memory: StepMemory,
) -> _Measured:
    device, done = device_of(model), _Measured()
    batch_loss = BatchLoss(model, task=task, pad_token=pad_token)
    judge = teaching.judge(model, [example for batch in batches for example in batch], pad_token=pad_token)
    for batch in batches:
        if task is Task.CLASSIFICATION:
            logits, labels = class_logits(model, batch, pad_token=pad_token, device=device)
            done.losses += nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
            done.correct += int((logits.argmax(dim=-1) == labels).sum())
        elif judge:
            found, led = judge(batch)
            done.losses += found
            done.leads += led
        else:
            done.losses += within_memory(
                partial(_by_sequence, batch_loss, batch, memory),
                give_way=partial(memory.give_way, len(batch), recomputes=False),
                device=device,
                what="an evaluation",
            )
        check_abandoned()
    return done


def _by_sequence(batch_loss: BatchLoss, batch: Sequence[Example], memory: StepMemory) -> list[float]:
    return [loss for part in memory.parts(batch) for loss in batch_loss.by_sequence(part)]
