"""The objectives by name, as `--objective` takes them."""

from __future__ import annotations

from collections.abc import Mapping

from plait.choice import parse_choice, with_options
from plait.errors import ConfigError, did_you_mean
from plait.training.objectives.dpo import DPO
from plait.training.objectives.ipo import IPO
from plait.training.objectives.kto import KTO
from plait.training.objectives.objective import Objective
from plait.training.objectives.orpo import ORPO
from plait.training.objectives.simpo import SimPO

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


def objective_named(text: str) -> Objective | None:
    """The objective that `--objective` names, with its options; None for supervised fine-tuning.

    Raises:
        ConfigError: there is none, or an option is wrong.
    """
    name, options = parse_choice(text)
    if name == SFT:
        if options:
            raise ConfigError(f"objective '{name}' is given options, it has none")
        return None
    if name not in OBJECTIVES:
        known = (SFT, *OBJECTIVES)
        raise ConfigError(f"objective is {name!a}, expected one of {', '.join(known)}{did_you_mean(name, known)}")
    return with_options(OBJECTIVES[name], options, what=f"objective '{name}'")
