"""What clients learn, as ``--objective`` names it: to write texts and chats (`sft`), or what a feature adds to that.

Knows no model and imports nothing of a user's own: how an objective is learned is at its `teaching`
(`plait.training.teaching`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from plait.choice import parse_choice
from plait.errors import ConfigError
from plait.plugins import Kind
from plait.traits import Reasons, Trait

SFT = "sft"
"""The core's: supervised fine-tuning, by the loss that ``--loss`` names."""
OWN = "MODULE:CLASS"
"""Among a feature's objectives, those of a user's own."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What clients learn, with its options.

    Attributes:
        needs: traits of a run without which it cannot be learned, each with a reason.
        takes: traits that a run with it no longer has.
        parts: a user's own that its options name, and their kinds.
        teaching: place of a function from the text to a `plait.training.teaching.Teaching`.
        sequences: of one example at most.
        is_sum: whether the loss of several examples is the sum of theirs.
        completions: how many are sampled of each example; 0 for none. Each example is then computed by itself.
        examples: what a step learns from, in words; ``{}`` is their number.
        losses: what a client says of its data by it, in words.
        right: what its accuracy is called; empty for none of its own.
        loss_is_minus: what its losses are minus the mean of, such as a reward; empty for losses.
        note: what its figures in a report are.
    """

    text: str = SFT
    needs: Reasons = field(default_factory=dict[Trait, str])
    takes: Reasons = field(default_factory=dict[Trait, str])
    parts: tuple[tuple[Kind, str], ...] = ()
    teaching: str = "plait.training.teaching:supervised"
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
        """Whether it is the core's own."""
        return self.text == SFT


def objective_named(text: str) -> Objective:
    """The objective that ``--objective`` names.

    Raises:
        ConfigError: there is none, or an option is wrong.
    """
    name, options = parse_choice(text)
    if name == SFT:
        if options:
            raise ConfigError(f"objective '{name}' is given options, it has none")
        return Objective()
    from plait.features.objectives.grpo import NAME
    from plait.features.objectives.named import preferences, reward

    return reward(text) if name == NAME else preferences(text)


def objective_recorded(text: str) -> Objective:
    """The objective of a ledger; one that is not known here is taken for one of texts."""
    try:
        return objective_named(text)
    except ConfigError:
        return Objective()


def usual_objective(kind: str) -> str:
    """The objective that records of a kind are for besides `SFT`; empty if there is none."""
    return "dpo" if kind == "preference" else ""
