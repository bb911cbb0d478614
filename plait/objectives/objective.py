"""The objectives by name: what each needs of a run, and how its figures are named."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from plait.errors import ConfigError
from plait.own_code import instance_of
from plait.plugins import Kind, find
from plait.settings.choice import parse_choice, with_options
from plait.settings.traits import Reasons, Trait

if TYPE_CHECKING:
    from plait.objectives.formula import GRPO, Formula

SFT = "sft"
"""The default: supervised fine-tuning, by the loss that ``--loss`` names."""
DPO_NAME, GRPO_NAME = "dpo", "grpo"
"""The usual objective of preferences, and that of a reward."""

_OWN_LOSS = {Trait.OWN_LOSS: "an objective is itself a loss"}
_REPLACES = {Trait.OWN_LOSS: "which it replaces"}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What clients learn, with its options.

    Attributes:
        needs: traits of a run without which it cannot be learned, each with a reason.
        removes: traits that a run with it no longer has.
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
    removes: Reasons = field(default_factory=dict[Trait, str])
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
    return _of_reward(text) if name == GRPO_NAME else _of_preferences(text)


def objective_recorded(text: str) -> Objective:
    """The objective of a ledger; one that is not known here is taken for one of texts."""
    try:
        return objective_named(text)
    except ConfigError:
        return Objective()


def usual_objective(kind: str) -> str:
    """The objective that records of a kind are for besides `SFT`; empty if there is none."""
    return DPO_NAME if kind == "preference" else ""


def _of_preferences(text: str) -> Objective:
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


def _of_reward(text: str) -> Objective:
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
    from plait.objectives.formula import DPO, GRPO

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
