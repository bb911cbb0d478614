"""Group relative policy optimisation, which learns from a reward instead of replies.

Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", arXiv 2402.03300,
eqs. 3 and 4 with outcome rewards (section 4.1.2): of every prompt a group of completions is sampled, each one's
advantage is its reward, standardised within the group, and the clipped surrogate, less beta times the divergence from
the base without the adapter, is maximised. Knows no model and no reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from plait.errors import ConfigError
from plait.settings.choice import parse_choice, with_options

if TYPE_CHECKING:
    import torch

# Added to a group's standard deviation, so that equal rewards divide by no zero; that of TRL.
_LEAST_SPREAD = 1e-4


@dataclass(frozen=True)
class GRPO:
    """Minus the mean over completions of the mean over their tokens of the clipped gain, less the divergence."""

    beta: Annotated[float, Field(ge=0, le=1e3, description="weight of the divergence from the base")] = 0.04
    epsilon: Annotated[float, Field(gt=0, lt=1, description="how far a ratio of probabilities counts")] = 0.2
    num_iterations: Annotated[int, Field(ge=1, le=64, description="steps on the same completions")] = 1

    def advantages(self, rewards: Sequence[float]) -> list[float]:
        """Of each completion of one group; all zero where rewards are equal."""
        mean, spread = fmean(rewards), pstdev(rewards)
        return [(reward - mean) / (spread + _LEAST_SPREAD) if spread else 0.0 for reward in rewards]

    def loss(
        self,
        now: torch.Tensor,
        before: torch.Tensor,
        reference: torch.Tensor | None,
        advantages: Sequence[float],
        counts: Sequence[int],
    ) -> torch.Tensor:
        """The loss of one group, a scalar.

        Args:
            now: (tokens,) log-probabilities of the completions' tokens under the model in training.
            before: (tokens,) the same when they were sampled.
            reference: (tokens,) the same under the base without the adapter; None where beta is 0.
        """
        of_tokens = [advantage for advantage, count in zip(advantages, counts, strict=True) for _ in range(count)]
        weights = now.new_tensor(of_tokens)
        ratio = (now - before).exp()
        gain = (ratio * weights).minimum(ratio.clamp(1 - self.epsilon, 1 + self.epsilon) * weights)
        if reference is not None:
            ahead = reference - now
            # Equation 4: unbiased, and never negative.
            gain = gain - self.beta * (ahead.exp() - ahead - 1)
        means = [part.mean() for part in gain.split(list(counts))]
        return -sum(means[1:], means[0]) / len(means)


NAME = "grpo"
"""The objective that learns from a reward."""


@dataclass(frozen=True)
class Rewarded:
    """What clients sample of each prompt, and what a completion is worth."""

    reward: Annotated[str, Field(description="MODULE:FUNCTION from prompt, completion and answer to a number")] = ""
    group_size: Annotated[int, Field(ge=2, le=1024, description="completions of each prompt, which are compared")] = 8
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 24, description="most tokens of a completion")] = 32
    temperature: Annotated[float, Field(gt=0, le=100, description="of the sampling of completions")] = 1.0


_OWN = frozenset(each.name for each in fields(Rewarded))


def rewarded(objective: str) -> Rewarded:
    """What `--objective grpo` says of sampling and reward.

    Options of the reward itself have semicolons between them: ``grpo:reward=mine:right:close=0.5;strict=true``.

    Raises:
        ConfigError: no reward is given, or an option is wrong.
    """
    _, own, _ = _split(objective)
    if "reward" not in own:
        raise ConfigError(f"objective is '{objective}' without a reward, expected {NAME}:reward=MODULE:FUNCTION")
    return with_options(Rewarded(), own | {"reward": own["reward"].replace(";", ",")}, what=f"objective '{NAME}'")


def of_loss(objective: str) -> str:
    """`--objective` with no options but those of its loss."""
    name, own, options = _split(objective)
    if not own:
        return objective
    said = ",".join(f"{key}={value}" for key, value in options.items())
    return f"{name}:{said}" if said else name


def _split(objective: str) -> tuple[str, dict[str, str], Mapping[str, str]]:
    """The name, the options of sampling and reward, and those of the loss."""
    name, options = parse_choice(objective)
    if name != NAME:
        return name, {}, options
    own = {found: value for key, value in options.items() if (found := key.replace("-", "_")) in _OWN}
    return name, own, {key: value for key, value in options.items() if key.replace("-", "_") not in _OWN}
