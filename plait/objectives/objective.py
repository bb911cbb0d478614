"""What clients learn: what it needs of a run, and how its figures are named."""

from dataclasses import dataclass, field

from plait.plugins import Kind
from plait.settings.traits import Reasons, Trait

SFT = "sft"
"""The default: supervised fine-tuning, by the loss that ``--loss`` names."""
DPO_NAME, GRPO_NAME = "dpo", "grpo"
"""The usual objective of preferences, and that of a reward."""


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
