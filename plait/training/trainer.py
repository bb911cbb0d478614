"""The local trainer: AdamW on the adapter of a frozen base, for a number of steps, from a seed.

Knows nothing of rounds, peers or bytes: takes settings, examples and a model, returns the mean loss.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
from plait.training.grader import Grader
from plait.training.grpo import Drawing, GroupLoss, rewards_of
from plait.training.learner import Learner, LocalTraining, TrainingInputs, order
from plait.training.local_loss import loss_named
from plait.training.loss_scale import LossScale
from plait.training.losses import BatchLoss, ChosenLoss, class_logits, count_labels
from plait.training.objectives import GRPO, Objective, objective_named
from plait.training.preferences import PreferenceLoss, References
from plait.training.step_memory import StepMemory, within_memory
from plait.wire.settings import Settings

StepLoss = BatchLoss | ChosenLoss | PreferenceLoss | GroupLoss

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
    references: References | None = None,
    tokenizer: Tokenizer | None = None,
    memory: StepMemory | None = None,
) -> LocalTraining:
    """Train an adapter for `settings.steps_taken` optimizer steps.

    The optimizer works on one flat float32 buffer, the master; the model computes with `parameters`, which follow it
    and may be in bfloat16 or float16 (mixed precision with float32 masters, arXiv 1710.03740). Dropout and the order of
    examples depend on `settings.seed`. A step's loss is the mean over all its label tokens, whatever their distribution
    over micro-batches.

    Args:
        model: the base with the adapter.
        parameters: the adapter's parameters in layout order; overwritten.
        examples: the training examples.
        settings: steps, batch, learning rate, schedule, seed, trained sides, FedProx's mu.
        start: (size,) the initial adapter; not changed.
        task: what the labels are.
        pad_token: pads short rows.
        carried: from earlier rounds.
        on_step: called with number and loss of every step.
        references: what is known of preferences under the base; added to.
        tokenizer: of the base, where a reward reads what it writes.
        memory: what earlier steps gave up to fit into memory; changed if it is not enough.

    Raises:
        PartError: a loss or a reward of the user's own fails.
        MachineError: a step does not fit into memory.
        ConfigError: no part of this adapter trains, or the moments belong to another adapter.
        Abandoned: nobody waits for this any more.
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
        device=device,
    )
    objective = objective_named(settings.objective)
    references = references or References()
    memory = memory or StepMemory()
    group_loss = grader = None
    if isinstance(objective, GRPO):
        grader = grader_of(settings, tokenizer)
        group_loss = GroupLoss(
            model.eval(),
            objective,
            grader,
            drawing_of(settings),
            pad_token=pad_token,
            seed=settings.seed,
            memory=memory,
        )
    elif objective and objective.needs_reference:
        visits = settings.steps_taken * inputs.examples_a_step
        visited = islice(order(len(examples), settings.seed), min(visits, len(examples)))
        references.learn(model, (examples[index] for index in visited), pad_token=pad_token)
    model.train(group_loss is None)
    batch_loss: StepLoss = group_loss or BatchLoss(model, task=task, pad_token=pad_token, memory=memory)
    if isinstance(objective, GRPO):
        pass
    elif objective:
        batch_loss = PreferenceLoss(model, objective, references, pad_token=pad_token, memory=memory)
    elif function := loss_named(settings.loss):
        batch_loss = ChosenLoss(
            model, parameters, function, start=start, task=task, pad_token=pad_token, name=settings.loss
        )
    batches: list[list[Example]] = []
    counted, mean_reward = 1, 0.0
    scale = LossScale.of(model.parameters())
    with only_trained(parameters, trained), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        for step in range(settings.steps_taken):
            follow(parameters, learner.values)
            if group_loss is None or group_loss.is_new(step):
                batches, counted = learner.draw()
                if group_loss is not None:
                    mean_reward = group_loss.sample(batches, step)
            attempt = partial(
                within_memory,
                partial(_backward, batch_loss, batches, counted, parameters, memory, scale),
                give_way=partial(_give_way, batch_loss, memory, max(map(len, batches))),
                device=device,
                what=f"a step over {settings.seq_len} tokens a sequence",
            )
            (step_loss,), is_finite = scale.settle(attempt)
            if group_loss is not None:
                # What is minimised says nothing: advantages are centred. What is reported is the reward.
                step_loss = 0.0 - mean_reward
            if is_finite:
                gradients = [parameter.grad for parameter in parameters]
                learner.step(gradients, step_loss, scale=scale.factor, is_limited=group_loss is None)
                scale.held()
            else:
                learner.skip()
            for parameter in parameters:
                parameter.grad = None
            on_step(step, step_loss)
            check_abandoned()
    follow(parameters, learner.values)
    done = learner.finish(time.perf_counter() - started)
    if group_loss is None or grader is None:
        return done
    grader.check()
    return replace(
        done,
        report=replace(done.report, reward=group_loss.mean_reward, refused_completions=grader.refused),
    )


def drawing_of(settings: Settings) -> Drawing:
    """How a run's completions are sampled."""
    return Drawing(settings.group_size, settings.max_completion_tokens, settings.seq_len, settings.temperature)


def grader_of(settings: Settings, tokenizer: Tokenizer | None) -> Grader:
    """The run's reward at work.

    Raises:
        ConfigError: nobody here allowed to import it, or it is no reward.
    """
    if tokenizer is None:
        raise ValueError("a reward reads text, so a tokenizer is needed")
    return Grader.named(settings.reward, tokenizer)


def _backward(
    batch_loss: StepLoss,
    batches: Sequence[Sequence[Example]],
    counted: int,
    parameters: Sequence[nn.Parameter],
    memory: StepMemory,
    scale: LossScale,
) -> tuple[list[float], bool]:
    """Compute a step's gradients, in the parameters, and return its loss and whether they overflowed."""
    for parameter in parameters:
        parameter.grad = None  # a failed attempt may have left some
    said: list[torch.Tensor] = []
    # An objective, or a loss of a user's own, may be no plain sum over sequences, so that a cut would change it.
    parts: Iterable[Sequence[Example]] = batches
    if isinstance(batch_loss, BatchLoss):
        parts = (part for whole in batches for part in memory.parts(whole))
    elif isinstance(batch_loss, GroupLoss):
        # One prompt's completions are sequences enough for a pass.
        parts = ([example] for whole in batches for example in whole)
    for batch in parts:
        loss = batch_loss(batch) / counted
        scale.applied(loss).backward()
        said.append(batch_loss.reported / counted if isinstance(batch_loss, ChosenLoss) else loss.detach())
    if scale.adapts:
        said.append(scale.overflows(parameter.grad for parameter in parameters).to(said[0].device))
    read = torch.stack(said).tolist()  # once: each read waits for a GPU
    return [sum(read[: len(read) - scale.adapts])], scale.adapts and bool(read[-1])


def _give_way(batch_loss: StepLoss, memory: StepMemory, largest: int) -> bool:
    recomputes = not isinstance(batch_loss, ChosenLoss) and batch_loss.recomputes
    return memory.give_way(largest if isinstance(batch_loss, BatchLoss) else 1, recomputes=recomputes)


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
def follow(parameters: Sequence[nn.Parameter], values: Sequence[torch.Tensor]) -> None:
    """Give the model's parameters the master's values, tensor by tensor."""
    shaped = [flat.view_as(parameter) for parameter, flat in zip(parameters, values, strict=True)]
    torch._foreach_copy_(list(parameters), shaped)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


@torch.no_grad()
def measure_losses(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    task: Task,
    pad_token: int,
    batch_size: int,
    objective: Objective | None = None,
    references: References | None = None,
    rewarded: tuple[Grader, Drawing] | None = None,
    memory: StepMemory | None = None,
) -> SequenceLosses:
    """Loss (and correct answers, or rewards) of every example, in evaluation mode.

    Of examples whose completions are rewarded, the loss is minus the reward of one completion, and one that has none
    counts for nothing.

    Args:
        model: the base with the adapter.
        examples: to measure; preferences where there is an objective.
        task: what the labels are.
        pad_token: pads short rows.
        batch_size: sequences of a forward pass; with an objective, preferences.
        objective: of preferences; None for supervised fine-tuning.
        references: what is known of preferences under the base; added to.
        rewarded: the reward and how completions are sampled, where these are measured.
        memory: what earlier steps gave up to fit into memory; changed if it is not enough.

    Raises:
        PartError: no completion has a reward.
        MachineError: one sequence does not fit into memory.
        Abandoned: nobody waits for this any more.
    """
    model.eval()
    if rewarded:
        rewards = rewards_of(model, examples, *rewarded)
        return SequenceLosses(
            tuple(0.0 - (each or 0.0) for each in rewards),
            tuple(int(each is not None) for each in rewards),
            digest=digest_of(examples).hex(),
        )
    device = device_of(model)
    batch_loss = BatchLoss(model, task=task, pad_token=pad_token)
    losses: list[float] = []
    leads: list[float] = []
    correct = 0
    memory = memory or StepMemory()
    references = references or References()
    if objective and objective.needs_reference:
        references.learn(model, examples, pad_token=pad_token)
    preference_loss = PreferenceLoss(model, objective, references, pad_token=pad_token) if objective else None
    for first in range(0, len(examples), batch_size):
        batch = examples[first : first + batch_size]
        if task is Task.CLASSIFICATION:
            logits, labels = class_logits(model, batch, pad_token=pad_token, device=device)
            losses += nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
            correct += int((logits.argmax(dim=-1) == labels).sum())
        elif preference_loss:
            found, led = preference_loss.by_example(batch)
            losses += found
            leads += led
        else:
            losses += within_memory(
                partial(_by_sequence, batch_loss, batch, memory),
                give_way=partial(memory.give_way, len(batch), recomputes=False),
                device=device,
                what="an evaluation",
            )
        check_abandoned()
    return SequenceLosses(
        tuple(losses),
        tuple(count_labels(example, task) for example in examples),
        correct if task is Task.CLASSIFICATION else None,
        digest_of(examples).hex(),
        tuple(leads),
    )


def _by_sequence(batch_loss: BatchLoss, batch: Sequence[Example], memory: StepMemory) -> list[float]:
    return [loss for part in memory.parts(batch) for loss in batch_loss.by_sequence(part)]
