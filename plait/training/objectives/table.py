"""The objectives by name, as `--objective` takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from plait.choice import parse_choice, with_options
from plait.errors import ConfigError
from plait.on_demand import OnDemand
from plait.plugins import Kind, find, instance_of
from plait.rewarded import NAME, of_loss
from plait.traits import NOTHING, Reasons, Stated, Trait

if TYPE_CHECKING:
    from plait.training.objectives.grpo import GRPO
    from plait.training.objectives.objective import Objective

SFT = "sft"
"""The default, supervised fine-tuning: no objective of preferences, but the loss that `--loss` names."""
OBJECTIVES: OnDemand[type[Objective]] = OnDemand(
    {
        "dpo": "plait.training.objectives.dpo:DPO",
        "ipo": "plait.training.objectives.ipo:IPO",
        "kto": "plait.training.objectives.kto:KTO",
        "orpo": "plait.training.objectives.orpo:ORPO",
        "simpo": "plait.training.objectives.simpo:SimPO",
    }
)
"""Those of preferences."""

REWARDED = NAME
"""That of a reward."""
_MEMBERS = ("losses", "reward", "needs_reference", "takes_one_reply")


def is_rewarded(text: str) -> bool:
    """Whether `--objective` names that of a reward."""
    return parse_choice(of_loss(text))[0] == REWARDED


def objective_named(text: str) -> Objective | GRPO | None:
    """The objective that `--objective` names, with its options; None for supervised fine-tuning.

    Raises:
        ConfigError: there is none, or an option is wrong.
    """
    name, options = parse_choice(of_loss(text))
    if name == SFT:
        if options:
            raise ConfigError(f"objective '{name}' is given options, it has none")
        return None
    what = f"objective '{name}'"
    if name == REWARDED:
        from plait.training.objectives.grpo import GRPO

        return with_options(GRPO(), options, what=what)
    if name in OBJECTIVES:
        return with_options(OBJECTIVES[name](), options, what=what)
    found = instance_of(find(Kind.OBJECTIVE, name, known=(SFT, *OBJECTIVES, REWARDED)), what=what)
    missing = [member for member in _MEMBERS if not hasattr(found, member)]
    if missing:
        raise ConfigError(f"{what} is a {type(found).__name__} without {' and '.join(missing)}, expected an Objective")
    return with_options(cast("Objective", found), options, what=what)


def objective_stated(text: str) -> Stated:
    """What an objective needs of a run, besides what its setting states.

    Raises:
        ConfigError: see `objective_named`.
    """

    def rest() -> Iterator[Stated]:
        others = {name: _needs(other()) for name, other in OBJECTIVES.items()}
        if of_loss(text) != text:
            others = {f"{REWARDED}:beta=0": NOTHING}
        return (Stated("objective", name, needs) for name, needs in others.items())

    return Stated("objective", text, _needs(objective_named(text)), others=rest)


def _needs(objective: Objective | GRPO | None) -> Reasons:
    is_compared = objective is not None and objective.needs_reference
    return {Trait.BASE_STAYS: "it compares with the base without the adapter"} if is_compared else NOTHING
