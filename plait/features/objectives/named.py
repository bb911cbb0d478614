"""The objectives by name, as `--objective` takes them: what each needs of a run, and its formula."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from plait.choice import parse_choice, with_options
from plait.errors import ConfigError
from plait.features.objectives.grpo import GRPO
from plait.features.objectives.rewarded import NAME, of_loss, rewarded
from plait.objective import SFT, Objective
from plait.own_code import instance_of
from plait.places import OnDemand
from plait.plugins import Kind, find
from plait.traits import NOTHING, Reasons, Stated, Trait

if TYPE_CHECKING:
    from plait.features.objectives.formula import Formula

FORMULAS: OnDemand[type[Formula]] = OnDemand(
    {
        "dpo": "plait.features.objectives.dpo:DPO",
        "ipo": "plait.features.objectives.ipo:IPO",
        "kto": "plait.features.objectives.kto:KTO",
        "orpo": "plait.features.objectives.orpo:ORPO",
        "simpo": "plait.features.objectives.simpo:SimPO",
    }
)
"""Those of preferences."""

_MEMBERS = ("losses", "reward", "needs_reference", "takes_one_reply")
_OWN_LOSS = {Trait.OWN_LOSS: "an objective is itself a loss"}
_REPLACES = {Trait.OWN_LOSS: "which it replaces"}


def preferences(text: str) -> Objective:
    """An objective of preferences, plait's or the user's own.

    Raises:
        ConfigError: an option has no value.
    """
    name, _ = parse_choice(text)
    return Objective(
        text=text,
        needs={**_REPLACES, Trait.LANGUAGE: "it is about what a language model writes"},
        takes=_OWN_LOSS,
        others=_others,
        teaching="plait.features.objectives.taught:Preferences",
        sequences=2,
        is_sum=bool(getattr(FORMULAS.get(name), "is_sum", False)),
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
        others=lambda: [Stated("objective", f"{NAME}:beta=0")],
        parts=((Kind.REWARD, how.reward),),
        teaching="plait.features.objectives.taught:Rewards",
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
    if name in FORMULAS:
        return with_options(FORMULAS[name](), options, what=what)
    found = instance_of(find(Kind.OBJECTIVE, name, known=(SFT, *FORMULAS, NAME)), what=what)
    missing = [member for member in _MEMBERS if not hasattr(found, member)]
    if missing:
        raise ConfigError(f"{what} is a {type(found).__name__} without {' and '.join(missing)}, expected an Objective")
    return with_options(cast("Formula", found), options, what=what)


def needs_of(formula: Formula | GRPO) -> Reasons:
    """What a formula needs of a run."""
    return {Trait.BASE_STAYS: "it compares with the base without the adapter"} if formula.needs_reference else NOTHING


def _others() -> Iterator[Stated]:
    return (Stated("objective", name, needs_of(formula())) for name, formula in FORMULAS.items())
