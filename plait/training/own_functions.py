"""Functions of a user's own that training calls: the loss that `--loss` names, the reward of `grpo:reward=…`.

    def focal(logits, labels, adapter, *, gamma: float = 2.0): ...  # a sum over the labels
    def right(prompt, completion, answer, *, close: float = 0.0) -> float: ...

A reward's `prompt` is as the model reads it, `answer` the record's completion. Importing this module imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from plait.errors import ConfigError, PartError
from plait.objectives import objective_named
from plait.objectives.objective import formula_named
from plait.own_code import located_errors
from plait.plugins import Kind
from plait.rounds.metrics import OWN
from plait.settings.choice import function_named, parse_choice, split_choices

if TYPE_CHECKING:
    import torch

    from plait.objectives.formula import GRPO

CROSS_ENTROPY = "cross_entropy"
"""The default, which no function computes."""
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
    loss_named(loss)
    for name in split_choices(metrics):
        if name not in OWN:
            checker_named(name)
    if objective_named(objective).is_plain:
        return
    formula = formula_named(objective)
    if objective_named(objective).completions:
        reward_named(cast("GRPO", formula).reward)


def loss_named(text: str) -> LocalLoss | None:
    """The loss that `--loss` names; None for the cross-entropy."""
    name, options = parse_choice(text)
    if name == CROSS_ENTROPY:
        if options:
            raise ConfigError(f"loss '{name}' is given options, it has none")
        return None
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
