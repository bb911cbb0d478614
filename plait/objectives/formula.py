"""The objectives besides texts, and their formulas: losses of a prompt's two replies, or of completions with rewards.

Importing this module imports no torch, so that a name and its options are checked early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Annotated, Protocol, cast

from pydantic import Field

from plait.errors import ConfigError
from plait.objectives.objective import DPO_NAME, GRPO_NAME, SFT, Objective
from plait.own_code import instance_of
from plait.plugins import Kind, find
from plait.settings.choice import parse_choice, with_options
from plait.settings.traits import Trait

if TYPE_CHECKING:
    import torch

_OWN_LOSS = {Trait.OWN_LOSS: "an objective is itself a loss"}
_REPLACES = {Trait.OWN_LOSS: "which it replaces"}


@dataclass(frozen=True)
class Reply:
    """One side of a batch's examples, in nats.

    Attributes:
        likely: (examples,) log-probability of the reply under the model in training, summed over its tokens.
        reference: (examples,) the same under the base without the adapter.
        tokens: (examples,) the number of its tokens.
    """

    likely: torch.Tensor
    reference: torch.Tensor
    tokens: torch.Tensor

    @property
    def gained(self) -> torch.Tensor:
        """(examples,) log of the ratio of the two probabilities."""
        return self.likely - self.reference


@dataclass(frozen=True)
class Sides:
    """The replies of a batch of examples."""

    chosen: Reply
    rejected: Reply


class Formula(Protocol):
    """A loss of preferences; a frozen dataclass whose described fields are its options, under TRL's names.

    With a true `is_sum` the loss of an example does not depend on the others of its batch.
    """

    def losses(self, sides: Sides) -> torch.Tensor:
        """The loss of each example, (examples,), in nats where the objective has a unit."""
        ...

    def reward(self, reply: Reply) -> torch.Tensor:
        """The reward that the model gives each reply, (examples,), up to a term that both replies to a prompt share."""
        ...


@dataclass(frozen=True)
class DPO:
    """-log sigmoid of beta times the difference of the two log-ratios.

    Direct preference optimisation (Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290, eq. 7). With
    `label_smoothing`, the conservative form for labels that are wrong with that probability (Mitchell, "A note on DPO
    with noisy preferences", 2023, eq. 3).
    """

    beta: Annotated[float, Field(gt=0, le=1e3, description="how close the model stays to the reference")] = 0.1
    label_smoothing: Annotated[
        float, Field(ge=0, lt=0.5, description="probability that a preference is the wrong way round")
    ] = 0.0

    is_sum = True

    def losses(self, sides: Sides) -> torch.Tensor:  # noqa: D102
        margin = self.reward(sides.chosen) - self.reward(sides.rejected)
        smoothing = self.label_smoothing
        return -(1 - smoothing) * _log_sigmoid(margin) - smoothing * _log_sigmoid(-margin)

    def reward(self, reply: Reply) -> torch.Tensor:
        """Equation 5 without the prompt's own term."""
        return self.beta * reply.gained


# Added to a group's standard deviation, so that equal rewards divide by no zero; that of TRL.
_LEAST_SPREAD = 1e-4


@dataclass(frozen=True)
class GRPO:
    """Minus the mean over completions of the mean over their tokens of the clipped gain, less the divergence.

    Group relative policy optimisation (Shao et al., "DeepSeekMath", arXiv 2402.03300, eqs. 3 and 4; outcome rewards:
    section 4.1.2): a completion's advantage is its reward, standardised within the completions of its prompt, and the
    clipped surrogate, less beta times the divergence from the base without the adapter, is maximised.
    """

    beta: Annotated[float, Field(ge=0, le=1e3, description="weight of the divergence from the base")] = 0.04
    epsilon: Annotated[float, Field(gt=0, lt=1, description="how far a ratio of probabilities counts")] = 0.2
    num_iterations: Annotated[int, Field(ge=1, le=64, description="steps on the same completions")] = 1
    reward: Annotated[str, Field(description="MODULE:FUNCTION from prompt, completion and answer to a number")] = ""
    group_size: Annotated[int, Field(ge=2, le=1024, description="completions of each prompt, which are compared")] = 8
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 24, description="most tokens of a completion")] = 32
    temperature: Annotated[float, Field(gt=0, le=100, description="of the sampling of completions")] = 1.0

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


def _log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return -(-x).logaddexp(x.new_zeros(()))


def of_preferences(text: str) -> Objective:
    """An objective of preferences, which may be the user's own."""
    return Objective(
        text=text,
        needs={**_REPLACES, Trait.LANGUAGE: "it is about what a language model writes"},
        removes=_OWN_LOSS,
        sequences=2,
        is_sum=parse_choice(text)[0] == DPO_NAME,
        examples="{} preferences of 2",
        losses="losses, how often rewards are right",
        right="reward accuracy",
        note="Of preferences: reward accuracy counts those whose chosen reply has the higher reward, and half of those "
        "with equal rewards, as all have before training; margin is the chosen reply's mean lead.",
    )


def of_reward(text: str) -> Objective:
    """That of a reward; ConfigError if none is given."""
    how = cast("GRPO", formula_named(text))
    return Objective(
        text=text,
        needs={
            **_REPLACES,
            Trait.LANGUAGE: "it rewards what a language model writes",
            Trait.SAMPLES: "what was sampled is learned by the same model",
            Trait.LOCAL_STEPS: "several steps may learn from the same completions",
        },
        removes={**_OWN_LOSS, Trait.SLOPES: "a reward's loss has none that limits a step"},
        parts=((Kind.REWARD, how.reward),),
        sequences=how.group_size,
        completions=how.group_size,
        examples=f"{{}} prompts with {how.group_size:,} completions",
        losses="mean rewards, how many completions had none",
        loss_is_minus="reward",
        note="Losses are minus mean rewards: of one completion of each held-out prompt, and of all that clients "
        "sampled in training.",
    )


def formula_named(text: str) -> Formula | GRPO:
    """The formula that `--objective` names, with its options.

    Options of a reward have semicolons between them: ``grpo:reward=mine:right:close=0.5;strict=true``.

    Raises:
        ConfigError: there is none, no reward is given where one is needed, or an option is wrong.
    """
    name, options = parse_choice(text)
    what = f"objective '{name}'"
    if name == GRPO_NAME:
        found = with_options(GRPO(), options, what=what)
        if not found.reward:
            raise ConfigError(f"objective is '{text}' without a reward, expected {name}:reward=MODULE:FUNCTION")
        return replace(found, reward=found.reward.replace(";", ","))
    if name == DPO_NAME:
        return with_options(DPO(), options, what=what)
    own = instance_of(find(Kind.OBJECTIVE, name, known=(SFT, DPO_NAME, GRPO_NAME)), what=what)
    missing = [member for member in ("losses", "reward") if not hasattr(own, member)]
    if missing:
        raise ConfigError(f"{what} is a {type(own).__name__} without {' and '.join(missing)}: both are needed")
    return with_options(cast("Formula", own), options, what=what)
