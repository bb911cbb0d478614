"""Functions of a user's own that training calls: the loss that `--loss` names, the reward of `grpo:reward=…`.

    def focal(logits, labels, adapter, *, gamma: float = 2.0): ...  # a sum over the labels
    def right(prompt, completion, answer, *, close: float = 0.0) -> float: ...

A reward's `prompt` is as the model reads it, `answer` the record's completion.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import nn

from plait.errors import ConfigError, PartError
from plait.objectives import objective_named
from plait.objectives.formula import GRPO, formula_named
from plait.own_code import located_errors
from plait.plugins import Kind
from plait.rounds.metrics import OWN
from plait.settings.choice import function_named, parse_choice, split_choices
from plait.training.examples import IGNORED, Example
from plait.training.learner import TrainingInputs
from plait.training.losses import BatchLoss, StepLoss
from plait.wire.settings import CROSS_ENTROPY

_LOSS_TAKES = ("logits", "labels", "adapter")
_REWARD_TAKES = ("prompt", "completion", "answer")


@dataclass(frozen=True, eq=False)
class LocalAdapter:
    """The adapter in training as a loss sees it; `received_logits` costs a forward pass without dropout."""

    tensors: Mapping[str, torch.Tensor]
    received: Mapping[str, torch.Tensor]
    received_logits: Callable[[], torch.Tensor]


class LocalLoss(Protocol):
    """A loss with its options."""

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, adapter: LocalAdapter) -> torch.Tensor:
        """The loss, summed over the labels.

        Args:
            logits: (labels, words) float32; of a classifier (examples, classes).
            labels: (labels,) int64, each the right word or class.
        """
        ...


Reward = Callable[[str, str, str], object]
"""From the texts of a prompt, of a completion, and of the completion that the record has, to a number."""


def check_functions(loss: str, objective: str, metrics: str = "") -> None:
    """Find what these settings name; ConfigError if there is none or it does not fit."""
    if loss != CROSS_ENTROPY:
        loss_named(loss)
    for name in split_choices(metrics):
        if name not in OWN:
            checker_named(name)
    if objective_named(objective).is_plain:
        return
    formula = formula_named(objective)
    if objective_named(objective).completions:
        reward_named(cast("GRPO", formula).reward)


def loss_named(text: str) -> LocalLoss:
    """The loss that `--loss` names, which is not the cross-entropy."""
    if parse_choice(text)[0] == CROSS_ENTROPY:
        raise ConfigError(f"loss '{CROSS_ENTROPY}' is given options, it has none")
    return cast("LocalLoss", function_named(Kind.LOSS, text, _LOSS_TAKES, known=(CROSS_ENTROPY,)))


def reward_named(text: str) -> Reward:
    """The reward that ``grpo:reward=…`` names, with its options."""
    return function_named(Kind.REWARD, text, _REWARD_TAKES)


def checker_named(text: str) -> Reward:
    """A checker of answers that ``--eval-metrics`` names, with its options: from 0 for a wrong answer to 1."""
    return function_named(Kind.METRIC, text, _REWARD_TAKES, known=OWN)


def value_of(reward: Reward, prompt: str, completion: str, answer: str) -> float:
    """The reward of one completion; PartError, without the texts, if it fails or is no finite number."""
    with located_errors("it failed", quoting=False):
        found = reward(prompt, completion, answer)
        number = float(found) if isinstance(found, bool | int | float | np.bool_ | np.number) else math.nan
    if not math.isfinite(number):
        kind = str(number) if isinstance(found, float | np.floating) else f"a {type(found).__name__}"
        raise PartError(f"it gave {kind}, expected a finite number")
    return number


class ChosenLoss(StepLoss):
    """A loss that `--loss` names; the model runs by its own modules. `reported` is the cross-entropy, summed."""

    is_sum = False  # a user's own may be anything

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        inputs: TrainingInputs,
    ) -> None:
        self._model, self._function, self._name = model, loss_named(inputs.settings.loss), inputs.settings.loss
        self._losses = BatchLoss(model, task=inputs.task, pad_token=inputs.pad_token).by_model()
        names = {id(parameter): key for key, parameter in model.named_parameters()}
        self._tensors = {names[id(parameter)]: parameter for parameter in parameters}
        parts = torch.from_numpy(inputs.start.flat.copy()).split([parameter.numel() for parameter in parameters])
        self._received = {
            names[id(parameter)]: part.view_as(parameter).to(parameter)
            for parameter, part in zip(parameters, parts, strict=True)
        }

    def __call__(self, batch: Sequence[Example], /) -> torch.Tensor:
        """See `StepLoss`."""
        logits, labels = self._losses.logits(batch)
        self.reported = nn.functional.cross_entropy(logits.detach(), labels, ignore_index=IGNORED, reduction="sum")
        kept = labels != IGNORED
        logits, labels = (logits, labels) if bool(kept.all()) else (logits[kept], labels[kept])
        adapter = LocalAdapter(self._tensors, self._received, lambda: self._received_logits(batch, kept))
        with located_errors(f"loss '{self._name}' failed", quoting=False):
            loss = cast("object", self._function(logits, labels, adapter))
        if not isinstance(loss, torch.Tensor) or loss.dim() or not loss.requires_grad:
            raise PartError(f"loss '{self._name}' gave no single number with a gradient: return a sum over the labels")
        return loss

    @torch.no_grad()
    def _received_logits(self, batch: Sequence[Example], kept: torch.Tensor) -> torch.Tensor:
        was_training = self._model.training
        self._model.eval()
        try:
            # Called in place of the model, with other values of the adapter; the parameters themselves do not change.
            def other(**inputs: object) -> object:
                return torch.func.functional_call(self._model, self._received, (), inputs)

            logits, _ = self._losses.logits(batch, other)
        finally:
            self._model.train(was_training)
        return logits if bool(kept.all()) else logits[kept]
