"""The local trainer: AdamW on the adapter of a frozen base, for a number of steps, from a seed; and what it learns."""

import math
import re
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from plait.adapters import AdapterTask
from plait.data import Record, RecordKind
from plait.errors import ConfigError, check_abandoned
from plait.rounds.evaluation import SequenceLosses, Sums, together
from plait.rounds.local_model import Trained
from plait.training.device import device_of
from plait.training.examples import Example, Tokenizer, count_labels, digest_of
from plait.training.learner import Learner, TrainingInputs, copy_all
from plait.training.losses import (
    BatchLoss,
    StepLoss,
    StepMemory,
    within_memory,
)
from plait.wire.settings import CROSS_ENTROPY, Settings

if TYPE_CHECKING:
    from plait.rounds.metrics import RunMetrics
# PEFT's names of a low-rank pair's two sides; everything else in an adapter (a head, a magnitude) trains with either.
_SIDE = re.compile(r"\.lora_(?:embedding_)?([AB])(?=\.|$)")


Judge = Callable[[Sequence[Example]], tuple[list[float], list[float]]]
"""From a batch to the loss of each example, and by how much it leads (see `SequenceLosses.leads`)."""


class TrainingObjective:
    """How a client learns an objective; here supervised fine-tuning, of preferences by the chosen replies."""

    kinds: Collection[RecordKind] = frozenset(
        {RecordKind.TEXT, RecordKind.PROMPT, RecordKind.CHAT, RecordKind.PREFERENCE}
    )
    expected = "text, prompts or messages"

    def examples(
        self, records: Sequence[Record], kind: RecordKind, tokenizer: Tokenizer, seq_len: int
    ) -> list[Example]:
        """Examples of records that are not plain text; DataError if the base's chat template refuses one."""
        from plait.training.conversations import converse

        return converse(records, kind, tokenizer, seq_len)

    def loss(
        self, model: nn.Module, parameters: Sequence[nn.Parameter], inputs: TrainingInputs, memory: StepMemory
    ) -> StepLoss:
        """The loss of one training of the model, of whose adapter these are the parameters."""
        if inputs.settings.loss == CROSS_ENTROPY:
            return BatchLoss(model, task=inputs.task, pad_token=inputs.pad_token, memory=memory)
        from plait.training.own_functions import ChosenLoss  # few runs have a loss of their own

        return ChosenLoss(model, parameters, inputs)

    def judge(self, model: nn.Module, examples: Sequence[Example]) -> Judge | None:
        """By what held-out examples are judged, in evaluation mode; None for the loss of their labels."""
        del model, examples
        return None

    def measured(
        self, model: nn.Module, examples: Sequence[Example], settings: Settings, tokenizer: Tokenizer
    ) -> SequenceLosses | None:
        """The losses of all held-out examples where they are no sum over tokens or pairs; None for `judge`."""
        del model, examples, settings, tokenizer
        return None


def train_steps(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    inputs: TrainingInputs,
    *,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
    objective: TrainingObjective | None = None,
    memory: StepMemory | None = None,
) -> Trained:
    """Train an adapter for the settings' optimizer steps.

    The model computes with `parameters`, in layout order, which follow a float32 master and may be in another type
    (mixed precision, arXiv 1710.03740). Dropout and order of examples depend on the settings' seed. `memory` has what
    earlier steps gave up; changed if it is not enough.
    """
    started, settings, memory = time.perf_counter(), inputs.settings, memory or StepMemory()
    trained = trained_parameters(model, parameters, settings.trained)
    learner = Learner(inputs, trained, device=parameters[0].device)
    step_loss = (objective or TrainingObjective()).loss(model, parameters, inputs, memory)
    model.train(not step_loss.without_dropout)
    gradients = StepGradients(parameters, step_loss, settings, memory, LossScale.of(model.parameters()))
    batches, counted = list[list[Example]](), 1
    # With epochs all rounds have one order, and so one seed.
    with in_training(parameters, trained, settings.seed + (settings.round if settings.round_epochs else 0)):
        for step in range(learner.steps):
            follow(parameters, learner.values)
            if step_loss.draws(step):
                batches, counted = learner.draw()
                step_loss.begin(batches, step)
            loss, is_finite = gradients.compute(batches, counted)
            loss = step_loss.to_report(loss)
            if is_finite:
                found = [parameter.grad for parameter in parameters]
                learner.step(found, loss, scale=gradients.scale.factor, is_limited=step_loss.is_limited)
                gradients.scale.held()
            else:
                learner.skip()
            gradients.forget()
            on_step(step, loss)
            check_abandoned()
    follow(parameters, learner.values)
    return step_loss.finished(learner.finish(time.perf_counter() - started))


@torch.no_grad()
def follow(parameters: Sequence[nn.Parameter], values: Sequence[torch.Tensor]) -> None:
    """Give a model's parameters the master's values."""
    copy_all(parameters, [flat.view_as(parameter) for parameter, flat in zip(parameters, values, strict=True)])


def trained_parameters(model: nn.Module, parameters: Sequence[nn.Parameter], sides: str) -> list[bool]:
    """Which of the parameters train if these sides do; ConfigError if none."""
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
def in_training(parameters: Sequence[nn.Parameter], trained: Sequence[bool], seed: int) -> Generator[None]:
    """Require gradients of what trains, and let dropout draw from this seed, for a while."""
    cards = dict.fromkeys(each.device for each in parameters if each.device.type == "cuda")
    with only_trained(parameters, trained), torch.random.fork_rng(devices=[*cards]):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True, eq=False)
class StepGradients:
    """Computes gradients, in the parameters; a step's loss is the mean over all its label tokens."""

    parameters: Sequence[nn.Parameter]
    loss: StepLoss
    settings: Settings
    memory: StepMemory
    scale: "LossScale"

    @property
    def size(self) -> int:
        """Sequences that are computed at a time where a step can be split; 0 for whole batches or units."""
        return self.settings.batch_size if self.loss.is_sum and not self.loss.in_whole else 0

    def compute(self, batches: Sequence[Sequence[Example]], counted: int) -> tuple[float, bool]:
        """The step's loss, of `counted` terms, and whether it is finite; gradients are in the parameters."""
        # What is computed: sequences, or whole batches where the loss is no plain sum over them.
        units = [[example] for batch in batches for example in batch] if self.loss.is_sum else batches
        attempt = partial(
            within_memory,
            partial(self._backward, units, counted),
            give_way=partial(
                self.memory.give_way, min(self.size, len(units)) if self.size else 1, recomputes=self.loss.recomputes
            ),
            device=self.parameters[0].device,
            what=f"a step over {self.settings.seq_len} tokens a sequence",
        )
        return self.scale.settle(attempt)

    def forget(self) -> None:
        """Free the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def _passes(self, units: Sequence[Sequence[Example]]) -> Iterator[Sequence[Example]]:
        if not self.size:
            # A split would change the loss, or a unit is enough for a pass.
            yield from units
            return
        examples = [example for unit in units for example in unit]
        for first in range(0, len(examples), self.size):
            yield from self.memory.parts(examples[first : first + self.size])

    def _backward(self, units: Sequence[Sequence[Example]], counted: int) -> tuple[float, bool]:
        self.forget()  # a failed attempt may have left some
        scale, sums = self.scale, list[torch.Tensor]()
        for batch in self._passes(units):
            loss = self.loss(batch) / counted
            (loss * scale.factor if scale.factor != 1 else loss).backward()
            reported = self.loss.reported
            sums.append(loss.detach() if reported is None else reported / counted)
        if scale.adapts:
            sums.append(scale.overflows(parameter.grad for parameter in self.parameters).to(sums[0].device))
        read = torch.stack(sums).tolist()  # once: each read waits for a GPU
        overflowed = scale.adapts and bool(read.pop())
        return sum(read), overflowed


FIRST_SCALE, _LEAST_SCALE = 2.0**16, 2.0**-14
_AGAIN_AFTER = 2000
SCALE_PER_EXAMPLE = 2.0**10
"""The constant factor of gradients of single examples, in float16."""


@dataclass
class LossScale:
    """The factor of losses against underflow in float16 (arXiv 1710.03740); as torch's `GradScaler`."""

    factor: float = 1.0
    adapts: bool = False
    _without_overflow: int = 0

    @classmethod
    def of(cls, tensors: Iterable[torch.Tensor]) -> Self:
        """What a model needs that has these parameters."""
        return cls(FIRST_SCALE, adapts=True) if any(x.dtype == torch.float16 for x in tensors) else cls()

    @torch.no_grad()
    def overflows(self, gradients: Iterable[torch.Tensor | None]) -> torch.Tensor:
        """() float32, 1 if a gradient is not finite, else 0; on the gradients' device, so that nothing waits for it."""
        found = [gradient for gradient in gradients if gradient is not None]
        if not found:  # a group without a difference in its rewards has none
            return torch.zeros(())
        norms = torch._foreach_norm(found, math.inf)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        # Those of a base that lies on several cards lie with their blocks.
        one = norms[0].device
        return (~torch.stack([norm.float().to(one) for norm in norms]).isfinite().all()).float()

    def held(self) -> None:
        """A step was taken."""
        self._without_overflow += 1
        if self.adapts and self._without_overflow == _AGAIN_AFTER:
            self.factor, self._without_overflow = 2 * self.factor, 0

    def settle(self, attempt: Callable[[], tuple[float, bool]]) -> tuple[float, bool]:
        """Attempt a step with half the factor as long as it overflows: `GradScaler` would give the batch up."""
        while True:
            loss, overflowed = attempt()
            gains = self.adapts and self.factor > _LEAST_SCALE
            if not overflowed or not math.isfinite(loss) or not gains:
                return loss, not overflowed
            self.factor, self._without_overflow = self.factor / 2, 0


ROWS = 2048
"""Of the matrix products of an evaluation on a CPU: without gradients to keep they cost little memory."""


@torch.no_grad()
def measure_losses(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    task: AdapterTask = AdapterTask.CAUSAL_LM,
    pad_token: int = 0,
    batch_size: int,
    objective: TrainingObjective | None = None,
    memory: StepMemory | None = None,
    metrics: "RunMetrics | None" = None,
) -> SequenceLosses:
    """Loss (and correct answers, or leads) of every example, in evaluation mode, as `train_steps` has its arguments."""
    model.eval()
    memory, device, correct = memory or StepMemory(), device_of(model), 0
    losses, leads, sums = list[float](), list[float](), list[Sums]()
    batch_loss = BatchLoss(model, task=task, pad_token=pad_token)
    judge = (objective or TrainingObjective()).judge(model, examples)
    if batch_loss.is_packed and not judge and device.type == "cpu":
        batch_size = max(batch_size, ROWS // max((len(example.tokens) for example in examples), default=1))
    for first in range(0, len(examples), batch_size):
        batch = examples[first : first + batch_size]
        if task is AdapterTask.CLASSIFICATION:
            logits, labels = batch_loss.by_model().logits(batch)
            losses += nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
            correct += int((logits.argmax(dim=-1) == labels).sum())
            if metrics:
                sums.append(metrics.of_labels(logits.double().cpu().numpy(), labels.cpu().numpy()))
        elif judge:
            found, led = judge(batch)
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
        correct if task is AdapterTask.CLASSIFICATION else None,
        digest_of(examples).hex(),
        tuple(leads),
        metric_sums=together(sums),
    )


def _by_sequence(batch_loss: BatchLoss, batch: Sequence[Example], memory: StepMemory) -> list[float]:
    return [loss for part in memory.parts(batch) for loss in batch_loss.by_sequence(part)]
