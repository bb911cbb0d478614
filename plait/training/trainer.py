"""The local trainer: AdamW on the adapter of a frozen base, for a number of steps, from a seed.

Knows nothing of rounds, peers or bytes: takes settings, examples and a model, returns the mean loss.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import torch
from torch import nn

from plait.abandon import check_abandoned
from plait.adapters import Float32, Task
from plait.errors import ConfigError
from plait.rounds.evaluation import SequenceLosses
from plait.rounds.local_model import NOTHING, Carried
from plait.training.device import device_of
from plait.training.examples import Example, Tokenizer, digest_of
from plait.training.learner import Learner, LocalTraining, TrainingInputs, order
from plait.training.lesson import StepLoss, Taught
from plait.training.loss_scale import LossScale
from plait.training.losses import BatchLoss, class_logits, count_labels
from plait.training.replicas import Replica, at_once, cards, deal, follow, over, seed, summed_gradients
from plait.training.step_memory import StepMemory, within_memory
from plait.training.teaching import Teaching, supervised, teaching_of
from plait.wire.settings import Settings

# PEFT's names of a low-rank pair's two sides; everything else in an adapter (a head, a magnitude) trains with either.
_SIDE = re.compile(r"\.lora_(?:embedding_)?([AB])(?=\.|$)")


def train_steps(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    examples: Sequence[Example],
    settings: Settings,
    *,
    start: Float32,
    task: Task,
    pad_token: int,
    carried: Carried = NOTHING,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
    teaching: Teaching | None = None,
    tokenizer: Tokenizer | None = None,
    memory: StepMemory | None = None,
    others: Sequence[Replica] = (),
) -> LocalTraining:
    """Train an adapter for `settings.steps_taken` optimizer steps.

    The optimizer works on one flat float32 buffer, the master; the model computes with `parameters`, which follow it
    and may be in bfloat16 or float16 (mixed precision with float32 masters, arXiv 1710.03740). Dropout and the order of
    examples depend on `settings.seed`. A step's loss is the mean over all its label tokens, whatever their distribution
    over micro-batches.

    Args:
        parameters: the adapter's parameters in layout order; overwritten.
        start: (size,) the initial adapter; not changed.
        teaching: of the objective, with what it remembers; by default one that remembers nothing.
        memory: what earlier steps gave up to fit into memory; changed if it is not enough.
        others: the same model and adapter on other devices; each step's sequences are dealt out over all of them.

    Raises:
        PartError: a part of the user's own fails.
        MachineError: a step does not fit into memory.
        ConfigError: no part of this adapter trains, or the moments belong to another adapter.
        Abandoned: the result is no longer needed.
    """
    started = time.perf_counter()
    device = parameters[0].device
    trained = trained_parameters(model, parameters, settings.trained)
    inputs = TrainingInputs(examples, settings, start, carried)
    learner = Learner(
        inputs,
        [parameter.numel() for parameter in parameters],
        trained,
        task=task,
        devices=[parameter.device for parameter in parameters],
    )
    memory = memory or StepMemory()
    replicas = [Replica(model, parameters), *others]
    lesson = (teaching or teaching_of(settings.objective)).lesson(
        Taught(settings, start, task, pad_token, memory, tokenizer)
    )

    def visited() -> list[Example]:
        visits = settings.steps_taken * inputs.examples_a_step
        first = islice(order(examples, settings.seed, task), min(visits, len(examples)))
        return [examples[index] for index in first]

    lesson.prepare(replicas, visited)
    losses: list[StepLoss] = []
    for replica in replicas:
        replica.model.train(not lesson.without_dropout)
        losses.append(lesson.loss(replica))
    is_cut = losses[0].is_sum and not lesson.in_whole
    size = settings.batch_size if is_cut else 0
    batches: list[list[Example]] = []
    counted = 1
    scale = LossScale.of(model.parameters())
    with ExitStack() as held:
        for replica in replicas:
            held.enter_context(only_trained(replica.parameters, trained))
        held.enter_context(torch.random.fork_rng(devices=cards(replicas)))
        seed(replicas, settings.seed)
        for step in range(settings.steps_taken):
            follow(replicas, learner.values, trained)
            if lesson.draws(step):
                batches, counted = learner.draw()
                lesson.begin(batches, step, [replica.model for replica in others])
            work = _dealt(losses[0], batches, len(replicas))
            attempt = partial(
                within_memory,
                partial(_backward, replicas, losses, work, counted, size, memory, scale),
                give_way=partial(
                    memory.give_way,
                    min(size, max(map(len, work))) if is_cut else 1,
                    recomputes=losses[0].recomputes,
                ),
                device=device,
                what=f"a step over {settings.seq_len} tokens a sequence",
            )
            (step_loss,), is_finite = scale.settle(attempt)
            step_loss = lesson.said(step_loss)
            if is_finite:
                gradients = summed_gradients(replicas)
                learner.step(gradients, step_loss, scale=scale.factor, is_limited=lesson.is_limited)
                scale.held()
            else:
                learner.skip()
            _forget(replicas)
            on_step(step, step_loss)
            check_abandoned()
    follow(replicas, learner.values, trained)
    return lesson.finished(learner.finish(time.perf_counter() - started))


def _tokens(example: Example) -> int:
    return len(example.tokens)


def _dealt(loss: StepLoss, batches: Sequence[Sequence[Example]], count: int) -> list[list[Sequence[Example]]]:
    """What each replica computes of a step: sequences, or whole batches where the loss is no plain sum over them."""
    units: list[Sequence[Example]] = [*batches]
    if loss.is_sum:
        units = [[example] for batch in batches for example in batch]
    return deal(units, count, size=lambda unit: sum(map(_tokens, unit)))


def _passes(work: Sequence[Sequence[Example]], size: int, memory: StepMemory) -> Iterator[Sequence[Example]]:
    """A replica's part of a step in pieces of this many examples, one after another; 0 for all at once."""
    if not size:
        # A cut would change the loss, or a unit is enough for a pass.
        yield from work
        return
    examples = [example for unit in work for example in unit]
    for first in range(0, len(examples), size):
        yield from memory.parts(examples[first : first + size])


def _backward(
    replicas: Sequence[Replica],
    losses: Sequence[StepLoss],
    work: Sequence[list[Sequence[Example]]],
    counted: int,
    size: int,
    memory: StepMemory,
    scale: LossScale,
) -> tuple[list[float], bool]:
    """Compute a step's gradients, in the parameters, and return its loss and whether they overflowed."""
    _forget(replicas)  # a failed attempt may have left some

    def compute(replica: Replica, given: tuple[StepLoss, list[Sequence[Example]]]) -> list[float]:
        batch_loss, own = given
        said: list[torch.Tensor] = []
        for batch in _passes(own, size, memory):
            loss = batch_loss(batch) / counted
            scale.applied(loss).backward()
            reported = batch_loss.reported
            said.append(loss.detach() if reported is None else reported / counted)
        if scale.adapts and said:
            said.append(scale.overflows(parameter.grad for parameter in replica.parameters).to(said[0].device))
        return torch.stack(said).tolist() if said else []  # once: each read waits for a GPU

    loss, overflowed = 0.0, False
    for read in over(replicas, compute, list(zip(losses, work, strict=True))):
        if scale.adapts and read:
            overflowed = bool(read.pop()) or overflowed
        loss += sum(read)
    return [loss], overflowed


def _forget(replicas: Sequence[Replica]) -> None:
    for replica in replicas:
        for parameter in replica.parameters:
            parameter.grad = None


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
    dealt = deal(batches, len(models), size=lambda batch: sum(map(_tokens, batch)))
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
