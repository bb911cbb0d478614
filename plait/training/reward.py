"""A reward function as a local trainer: what a user writes. `grpo.py` has the training itself.

    # my_reward.py
    import plait

    @plait.grpo(group=8, max_tokens=16)
    def reward(prompt: str, completion: str, answer: str) -> float:
        return float(completion.strip() == answer.strip())

with ``plait simulate --trainer my_reward:reward --no-take-back``. `prompt` is as the model reads it, with what a chat
template adds; `answer` is the record's own completion, from which nothing else learns. A client runs a reward only
where its operator installed or allowed its module, as any trainer. Brings no torch along until a round is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from plait.choice import with_options

if TYPE_CHECKING:
    from peft import PeftModel

    from plait.training.examples import Tokenizer
    from plait.training.grpo import GroupTrainer

Reward = Callable[[str, str, str], float]
"""From the texts of a prompt, of a completion, and of the completion that the record has, to a number."""


@dataclass(frozen=True)
class Options:
    """How completions are sampled and learned from."""

    group: Annotated[int, Field(ge=2, le=1024, description="completions of each prompt")] = 8
    max_tokens: Annotated[int, Field(ge=1, le=1 << 16, description="most tokens of a completion")] = 32
    temperature: Annotated[float, Field(gt=0, le=100, description="of the sampling")] = 1.0
    clip: Annotated[float, Field(gt=0, lt=1, description="how far a ratio of probabilities counts, epsilon")] = 0.2
    beta: Annotated[float, Field(ge=0, le=1e3, description="weight of the divergence from the base")] = 0.04
    iterations: Annotated[int, Field(ge=1, le=64, description="steps on the same completions")] = 1


def grpo(**options: float) -> Callable[[Reward], GRPO]:
    """Make a reward function a trainer, for ``--trainer module:function``.

    Args:
        options: ``group`` completions of each prompt (8), ``max_tokens`` of a completion (32), ``temperature`` (1),
            ``clip`` (0.2), ``beta`` (0.04; 0 for no pull towards the base) and ``iterations``, the steps on the same
            completions (1).

    Raises:
        ConfigError: there is no such option, or its value is out of bounds.
    """
    chosen = with_options(Options(), {key: str(value) for key, value in options.items()}, what="grpo")
    return lambda reward: GRPO(reward, chosen)


class GRPO:
    """A reward function that builds trainers; it can still be called as the function.

    Attributes:
        reward: the function.
        options: of the sampling and of the loss.
    """

    def __init__(self, reward: Reward, options: Options) -> None:
        self.reward, self.options = reward, options
        # It lives, for its name and the digest of its source, where the function does.
        update_wrapper(cast("Callable[..., object]", self), reward)

    def __call__(self, model: PeftModel, tokenizer: Tokenizer, data: object, args: dict[str, Any]) -> GroupTrainer:
        """A trainer of one round, as `--trainer` asks for."""
        from plait.training.grpo import GroupTrainer

        return GroupTrainer(model, tokenizer, data, args, self.reward, self.options)
