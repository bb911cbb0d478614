"""What clients learn, as ``--objective`` names it: to write texts and chats (`sft`), preferences, or a reward."""

from plait.errors import ConfigError
from plait.objectives.objective import DPO_NAME, GRPO_NAME, SFT, Objective
from plait.settings.choice import parse_choice

__all__ = ["SFT", "Objective", "objective_named", "objective_recorded", "usual_objective"]


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
    from plait.objectives import formula  # most runs learn texts

    return formula.of_reward(text) if name == GRPO_NAME else formula.of_preferences(text)


def objective_recorded(text: str) -> Objective:
    """The objective of a ledger; one that is not known here is taken for one of texts."""
    try:
        return objective_named(text)
    except ConfigError:
        return Objective()


def usual_objective(kind: str) -> str:
    """The objective that records of a kind are for besides `SFT`; empty if there is none."""
    return DPO_NAME if kind == "preference" else ""
