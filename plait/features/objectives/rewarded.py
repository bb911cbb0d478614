"""How a run learns from a reward: the options of ``--objective grpo`` that say what is sampled and what it is worth.

Knows no model; the other options of the objective are those of its loss (`plait.features.objectives.grpo`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated

from pydantic import Field

from plait.choice import parse_choice, with_options
from plait.errors import ConfigError

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
