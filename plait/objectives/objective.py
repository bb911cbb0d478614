"""The objectives by name: what each needs of a run, and how its figures are named. Knows no model and no formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated

from pydantic import Field

from plait.errors import ConfigError
from plait.plugins import Kind
from plait.settings.choice import parse_choice, with_options
from plait.settings.traits import Reasons, Trait

SFT = "sft"
"""The default: supervised fine-tuning, by the loss that ``--loss`` names."""
DPO, GRPO = "dpo", "grpo"
"""The usual objective of preferences, and that of a reward."""

_OWN_LOSS = {Trait.OWN_LOSS: "an objective is itself a loss"}
_REPLACES = {Trait.OWN_LOSS: "which it replaces"}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What clients learn, with its options.

    Attributes:
        needs: traits of a run without which it cannot be learned, each with a reason.
        takes: traits that a run with it no longer has.
        parts: a user's own that its options name, and their kinds.
        sequences: of one example at most.
        is_sum: whether the loss of several examples is the sum of theirs.
        completions: how many are sampled of each example; 0 for none. Each example is then computed by itself.
        examples: what a step learns from, in words; ``{}`` is their number.
        losses: what a client reports of its data, in words.
        right: what its accuracy is called; empty for none of its own.
        loss_is_minus: what its losses are minus the mean of, such as a reward; empty for losses.
        note: what its figures in a report are.
    """

    text: str = SFT
    needs: Reasons = field(default_factory=dict[Trait, str])
    takes: Reasons = field(default_factory=dict[Trait, str])
    parts: tuple[tuple[Kind, str], ...] = ()
    sequences: int = 1
    is_sum: bool = True
    completions: int = 0
    examples: str = "{}"
    losses: str = "losses"
    right: str = ""
    loss_is_minus: str = ""
    note: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it is supervised fine-tuning."""
        return self.text == SFT


def objective_named(text: str) -> Objective:
    """The objective that ``--objective`` names, with its options; one of preferences may be the user's own.

    Raises:
        ConfigError: there is none, or an option is wrong.
    """
    name, options = parse_choice(text)
    if name == SFT:
        if options:
            raise ConfigError(f"objective '{name}' is given options, it has none")
        return Objective()
    return _of_reward(text) if name == GRPO else _of_preferences(text)


def objective_recorded(text: str) -> Objective:
    """The objective of a ledger; one that is not known here is taken for one of texts."""
    try:
        return objective_named(text)
    except ConfigError:
        return Objective()


def usual_objective(kind: str) -> str:
    """The objective that records of a kind are for besides `SFT`; empty if there is none."""
    return DPO if kind == "preference" else ""


def _of_preferences(text: str) -> Objective:
    return Objective(
        text=text,
        needs={**_REPLACES, Trait.LANGUAGE: "it is about what a language model writes"},
        takes=_OWN_LOSS,
        sequences=2,
        is_sum=parse_choice(text)[0] == DPO,
        examples="{} preferences of 2",
        losses="losses, how often rewards are right",
        right="reward accuracy",
        note="Of preferences: reward accuracy counts those whose chosen reply has the higher reward, and half of those "
        "with equal rewards, as all have before training; margin is the chosen reply's mean lead.",
    )


def _of_reward(text: str) -> Objective:
    how = rewarded(text)
    return Objective(
        text=text,
        needs={
            **_REPLACES,
            Trait.LANGUAGE: "it rewards what a language model writes",
            Trait.SAMPLES: "what was sampled is learned by the same model",
        },
        takes={**_OWN_LOSS, Trait.SLOPES: "a reward's loss has none that limits a step"},
        parts=((Kind.REWARD, how.reward),),
        sequences=how.group_size,
        completions=how.group_size,
        examples=f"{{}} prompts with {how.group_size:,} completions",
        losses="mean rewards, how many completions had none",
        loss_is_minus="reward",
        note="Losses are minus mean rewards: of one completion of each held-out prompt, and of all that clients "
        "sampled in training.",
    )


@dataclass(frozen=True)
class Rewarded:
    """What clients sample of each prompt, and what a completion is worth."""

    reward: Annotated[str, Field(description="MODULE:FUNCTION from prompt, completion and answer to a number")] = ""
    group_size: Annotated[int, Field(ge=2, le=1024, description="completions of each prompt, which are compared")] = 8
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 24, description="most tokens of a completion")] = 32
    temperature: Annotated[float, Field(gt=0, le=100, description="of the sampling of completions")] = 1.0


_OWN = frozenset(each.name for each in fields(Rewarded))


def rewarded(text: str) -> Rewarded:
    """Sampling and reward of `--objective grpo`.

    Options of the reward itself have semicolons between them: ``grpo:reward=mine:right:close=0.5;strict=true``.

    Raises:
        ConfigError: no reward is given, or an option is wrong.
    """
    _, own, _ = _split(text)
    if "reward" not in own:
        raise ConfigError(f"objective is '{text}' without a reward, expected {GRPO}:reward=MODULE:FUNCTION")
    return with_options(Rewarded(), own | {"reward": own["reward"].replace(";", ",")}, what=f"objective '{GRPO}'")


def of_loss(text: str) -> str:
    """`--objective` with no options but those of its loss."""
    name, own, options = _split(text)
    if not own:
        return text
    stated = ",".join(f"{key}={value}" for key, value in options.items())
    return f"{name}:{stated}" if stated else name


def _split(text: str) -> tuple[str, dict[str, str], Mapping[str, str]]:
    """The name, the options of sampling and reward, and those of the loss."""
    name, options = parse_choice(text)
    if name != GRPO:
        return name, {}, options
    own = {found: value for key, value in options.items() if (found := key.replace("-", "_")) in _OWN}
    return name, own, {key: value for key, value in options.items() if key.replace("-", "_") not in _OWN}
