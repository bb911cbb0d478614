"""The objectives by name, as `--objective` takes them: what each needs of a run, and its formula."""

from __future__ import annotations

from typing import cast

from plait.errors import ConfigError
from plait.objectives.formula import DPO, Formula
from plait.objectives.grpo import GRPO, NAME, of_loss, rewarded
from plait.objectives.objective import SFT, Objective
from plait.own_code import instance_of
from plait.plugins import Kind, find
from plait.settings.choice import parse_choice, with_options
from plait.settings.traits import Trait

DPO_NAME = "dpo"

_MEMBERS = ("losses", "reward")
_OWN_LOSS = {Trait.OWN_LOSS: "an objective is itself a loss"}
_REPLACES = {Trait.OWN_LOSS: "which it replaces"}


def preferences(text: str) -> Objective:
    """An objective of preferences, plait's or the user's own.

    Raises:
        ConfigError: an option has no value.
    """
    return Objective(
        text=text,
        needs={**_REPLACES, Trait.LANGUAGE: "it is about what a language model writes"},
        takes=_OWN_LOSS,
        sequences=2,
        is_sum=parse_choice(text)[0] == DPO_NAME,
        examples="{} preferences of 2",
        losses="losses, how often rewards are right",
        right="reward accuracy",
        note="Of preferences: reward accuracy counts those whose chosen reply has the higher reward, and half of those "
        "with equal rewards, as all have before training; margin is the chosen reply's mean lead.",
    )


def reward(text: str) -> Objective:
    """The objective of a reward.

    Raises:
        ConfigError: no reward is given, or an option is wrong.
    """
    how = rewarded(text)
    return Objective(
        text=text,
        needs={
            **_REPLACES,
            Trait.LANGUAGE: "it rewards what a language model writes",
            Trait.SAMPLES: "what was sampled is learned by the same model",
        },
        takes={**_OWN_LOSS, Trait.SLOPES: "a reward's loss has none that says how far to go"},
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

    Raises:
        ConfigError: there is none, or an option is wrong.
    """
    name, options = parse_choice(of_loss(text))
    what = f"objective '{name}'"
    if name == NAME:
        return with_options(GRPO(), options, what=what)
    if name == DPO_NAME:
        return with_options(DPO(), options, what=what)
    found = instance_of(find(Kind.OBJECTIVE, name, known=(SFT, DPO_NAME, NAME)), what=what)
    missing = [member for member in _MEMBERS if not hasattr(found, member)]
    if missing:
        raise ConfigError(f"{what} is a {type(found).__name__} without {' and '.join(missing)}, expected an Objective")
    return with_options(cast("Formula", found), options, what=what)
