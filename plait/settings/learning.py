"""Settings of what clients learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from plait.settings.table import Table, number_or
from plait.traits import Reasons, Stated, Trait

OWN_SHARE_NEEDS: Reasons = {
    Trait.WAITS: "it counts on equal parts of all clients in a round",
    Trait.LINEAR: "it adds what the clients' own moves do not share",
    Trait.SAME_FACTORS: "a client's own direction goes on from the round before",
    Trait.ALL_SHARED: "a client keeps a whole adapter of its own",
    Trait.OWN_STEPS: "they are the client's own direction",
    Trait.LAST_ROUND: "clients make their own adapters in it",
}
"""What personalized adapters need of a run."""


class Learning(Table):
    """What clients learn."""

    table: ClassVar[str] = "learning"
    heading: ClassVar[str] = "What clients learn"

    objective: str = "sft"
    """what clients learn: sft learns texts and chats; dpo preference pairs; MODULE:CLASS is your own;
    grpo:reward=MODULE:FUNCTION,group-size=8 learns from your own reward; with options such as dpo:beta=0.2"""
    loss: str = "cross_entropy"
    """with sft what clients minimise: cross_entropy, or MODULE:FUNCTION of your own"""
    trainer: str = ""
    """MODULE:FUNCTION that builds your own transformers Trainer as the local trainer"""
    own_share: Annotated[float, Field(ge=0, lt=1), BeforeValidator(number_or("auto"))] | Literal["auto"] = "auto"
    """weight of a client's own direction in its personalized adapter, which it keeps beside the shared one; 0 for none;
    auto is 0.35 for linear rules if every client takes part in every round, else 0"""

    @property
    def given_own_share(self) -> float:
        """`own_share` if it is a number; 0 if it depends on rule and cohort."""
        return 0.0 if self.own_share == "auto" else self.own_share

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        replaces = {Trait.OWN_LOSS: "which it replaces"}
        if self.trainer:
            takes = {Trait.OWN_LOSS: "a trainer has a loss of its own", Trait.SLOPES: "a trainer's steps measure none"}
            yield self.says("trainer", needs=replaces, takes=takes)
        if self.is_given("loss"):
            yield self.says("loss", needs=replaces, takes={Trait.OWN_LOSS: "loss names another"})
        if self.given_own_share:
            yield self.says("own_share", needs=OWN_SHARE_NEEDS, instead="0")
