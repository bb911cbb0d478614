"""What objectives and rewards must do; `plait check-plugin` runs these on a user's own, tests on plait's."""

from __future__ import annotations

from typing import cast

import torch

from plait.errors import ConfigError, PartError
from plait.objectives import objective_named
from plait.objectives.formula import Formula, Reply, Sides
from plait.objectives.named import formula_named
from plait.own_code import BrokenError, Check
from plait.training.reward import Reward, value_of


def _sides() -> Sides:
    """Replies to three prompts."""
    generator = torch.Generator().manual_seed(5)

    def reply(*tokens: int) -> Reply:
        counts = torch.tensor(tokens)
        likely, reference = (-2 * torch.rand(len(tokens), generator=generator) * counts for _ in range(2))
        return Reply(likely.requires_grad_(), reference, counts)

    return Sides(reply(4, 6, 3), reply(5, 2, 3))


def _loss_of_each(objective: Formula) -> None:
    sides = _sides()
    losses = objective.losses(sides)
    if losses.shape != sides.chosen.likely.shape or not bool(torch.isfinite(losses).all()):
        raise BrokenError(
            f"gave shape {tuple(losses.shape)}, expected a finite loss for each of {len(sides.chosen.likely)}"
        )
    losses.sum().backward()
    gradients = [each.likely.grad for each in (sides.chosen, sides.rejected) if each.likely.grad is not None]
    if not gradients or not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
        raise BrokenError("no finite gradient reaches the log-probabilities")


def _rising_reward(objective: Formula) -> None:
    reply = _sides().chosen
    rewards = objective.reward(reply)
    if rewards.shape != reply.likely.shape:
        raise BrokenError(f"gave rewards of shape {tuple(rewards.shape)}, expected one for each of {len(reply.likely)}")
    (slope,) = torch.autograd.grad(rewards.sum(), reply.likely)
    if not bool((slope > 0).all()):
        raise BrokenError("the reward does not rise with the reply's log-probability")


def _same_losses(objective: Formula) -> None:
    if not torch.equal(objective.losses(_sides()), objective.losses(_sides())):
        raise BrokenError("the same inputs give a different loss")


OBJECTIVE_CHECKS: tuple[Check[Formula], ...] = (
    Check("a finite loss of each example with finite gradients", _loss_of_each),
    Check("a reward of each reply, which rises with its log-probability", _rising_reward),
    Check("the same inputs give the same loss", _same_losses),
)
"""The contract of an objective of preferences."""

_COMPLETIONS = ("", " 4", "four", "4\n\n\n4", "\u6f22\u5b57 \x00")


def _rewards(reward: Reward) -> list[float]:
    found: list[float] = []
    for completion in _COMPLETIONS:
        try:
            found.append(value_of(reward, "2 + 2 =", completion, " 4"))
        except PartError as error:
            raise BrokenError(f"of {completion!a}: {error}") from error
    return found


def _same_rewards(reward: Reward) -> None:
    if _rewards(reward) != _rewards(reward):
        raise BrokenError("the same completions have other rewards, expected the same")


def _number_each(reward: Reward) -> None:
    _rewards(reward)


REWARD_CHECKS: tuple[Check[Reward], ...] = (
    Check("a finite number for any completion", _number_each),
    Check("the same completion has the same reward", _same_rewards),
)
"""The contract of a reward."""


def own_formula(text: str) -> Formula:
    """The formula of an objective of preferences.

    Raises:
        ConfigError: it is no such objective.
    """
    objective = objective_named(text)
    if objective.is_plain or objective.completions:
        raise ConfigError(f"objective is '{text}', which is none of preferences, expected one of your own")
    return cast("Formula", formula_named(text))
