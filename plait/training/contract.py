"""What losses, objectives and rewards must do; `plait check-plugin` runs these on a user's own, tests on plait's."""

from collections.abc import Iterable
from typing import cast

import torch

from plait.errors import ConfigError, PartError
from plait.objectives import objective_named
from plait.objectives.formula import Formula, Reply, Sides, formula_named
from plait.own_code import BrokenError, Check
from plait.training.own_functions import LocalAdapter, LocalLoss, Reward, loss_named, value_of
from plait.wire.settings import CROSS_ENTROPY

_LABELS, _WORDS = 12, 20


def _inputs(labels: int = _LABELS) -> tuple[torch.Tensor, torch.Tensor, LocalAdapter]:
    generator = torch.Generator().manual_seed(3)
    logits, teacher = (torch.randn(_LABELS, _WORDS, generator=generator)[:labels] for _ in range(2))
    words = torch.randint(_WORDS, (_LABELS,), generator=generator)[:labels]
    shapes = {"base_model.model.q_proj.lora_A.weight": (2, 8), "base_model.model.q_proj.lora_B.weight": (8, 2)}
    tensors = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    received = {name: tensor.clone() for name, tensor in tensors.items()}
    trained = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    return logits.requires_grad_(), words, LocalAdapter(trained, received, lambda: teacher)


def _check_gradients(tensors: Iterable[torch.Tensor], what: str) -> None:
    gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
    if not gradients or not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
        raise BrokenError(f"no finite gradient reaches {what}")


def _one_number(loss: LocalLoss) -> None:
    logits, labels, adapter = _inputs()
    found = loss(logits, labels, adapter)
    if found.dim() or not torch.isfinite(found):
        raise BrokenError(f"gave shape {tuple(found.shape)}, expected one finite number")
    found.backward()
    _check_gradients((logits, *adapter.tensors.values()), "logits or adapter")


def _sum(loss: LocalLoss) -> None:
    whole, half = (float(loss(*_inputs(labels)).detach()) for labels in (_LABELS, _LABELS // 2))
    if whole and abs(whole) < 1.2 * abs(half):
        raise BrokenError(f"{_LABELS} labels give {whole:.3g} and half of them {half:.3g}, expected a sum, not a mean")


def mean_note(text: str) -> str:
    """A warning if the loss that a setting names is a mean; empty for any other."""
    if text == CROSS_ENTROPY:
        return ""
    loss = loss_named(text)
    try:
        _sum(loss)
    except BrokenError as error:
        return f"loss '{text}' learns next to nothing unless it is a sum over the labels: {error}"
    except Exception:  # it may want other inputs than the check's
        return ""
    return ""


def _same(loss: LocalLoss) -> None:
    if float(loss(*_inputs()).detach()) != float(loss(*_inputs()).detach()):
        raise BrokenError("the same inputs give a different loss")


LOSS_CHECKS: tuple[Check[LocalLoss], ...] = (
    Check("one finite number with finite gradients", _one_number),
    Check("a sum over the labels", _sum),
    Check("the same inputs give the same loss", _same),
)
"""The contract of a local loss."""


def _sides() -> Sides:
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
    _check_gradients((sides.chosen.likely, sides.rejected.likely), "the log-probabilities")


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
        raise BrokenError("the same completion has two different rewards")


def _number_each(reward: Reward) -> None:
    _rewards(reward)


REWARD_CHECKS: tuple[Check[Reward], ...] = (
    Check("a finite number for any completion", _number_each),
    Check("the same completion has the same reward", _same_rewards),
)
"""The contract of a reward."""


def own_formula(text: str) -> Formula:
    """The formula of an objective of preferences; ConfigError for another objective."""
    objective = objective_named(text)
    if objective.is_plain or objective.completions:
        raise ConfigError(f"objective is '{text}', which is none of preferences, expected one of your own")
    return cast("Formula", formula_named(text))
