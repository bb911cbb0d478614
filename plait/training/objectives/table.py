"""The objectives by name, as `--objective` takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from plait.choice import parse_choice, with_options
from plait.errors import ConfigError
from plait.plugins import Kind, find, instance_of
from plait.rewarded import NAME, of_loss
from plait.training.objectives.dpo import DPO
from plait.training.objectives.grpo import GRPO
from plait.training.objectives.ipo import IPO
from plait.training.objectives.kto import KTO
from plait.training.objectives.objective import Objective
from plait.training.objectives.orpo import ORPO
from plait.training.objectives.simpo import SimPO
from plait.traits import NOTHING, Reasons, Stated, Trait

SFT = "sft"
"""The default, supervised fine-tuning: no objective of preferences, but the loss that `--loss` names."""
OBJECTIVES: Mapping[str, Objective] = {
    "dpo": DPO(),
    "ipo": IPO(),
    "orpo": ORPO(),
    "kto": KTO(),
    "simpo": SimPO(),
}
"""Those of preferences."""
SUMS = (DPO, IPO, ORPO, SimPO)
"""Those whose loss of an example does not depend on the others of its batch."""

REWARDED = NAME
"""That of a reward."""
_GRPO = GRPO()
_MEMBERS = ("losses", "reward", "needs_reference", "takes_one_reply")


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
        return with_options(_GRPO, options, what=what)
    if name in OBJECTIVES:
        return with_options(OBJECTIVES[name], options, what=what)
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
    others = {name: _needs(other) for name, other in OBJECTIVES.items()}
    if of_loss(text) != text:
        others = {f"{REWARDED}:beta=0": NOTHING}

    def rest() -> Iterator[Stated]:
        return (Stated("objective", name, needs) for name, needs in others.items())

    return Stated("objective", text, _needs(objective_named(text)), others=rest)


def _needs(objective: Objective | GRPO | None) -> Reasons:
    is_compared = objective is not None and objective.needs_reference
    return {Trait.BASE_STAYS: "it compares with the base without the adapter"} if is_compared else NOTHING
