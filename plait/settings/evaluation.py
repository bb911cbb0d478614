"""Settings of what is evaluated, how often, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from plait.settings.table import MOST, Table, parts_of
from plait.traits import Stated, Trait


class EvaluationSettings(Table):
    """What is evaluated, how often, and what follows from it."""

    table: ClassVar[str] = "evaluation"
    heading: ClassVar[str] = "Evaluation"

    held_out_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """fraction of each client's data held out for evaluation"""
    max_held_out_sequences: Annotated[int, Field(ge=0, le=MOST)] = 0
    """most held-out sequences per client, the same ones each time; 0 limits evaluation to about a third of the training
    time, with at least 64 sequences over all clients, or 256 with classes"""
    eval_every: Annotated[int, Field(ge=1, le=MOST)] = 1
    """rounds between evaluations; the last round is always evaluated"""
    eval_clients: Annotated[int, Field(ge=0)] = 0
    """clients that evaluate, the same ones each time; 0 means all, or with clients-per-round as many as that, at least
    8
    """
    keep: Literal["accepted", "best", "last"] = "accepted"
    """accepted: undo half of a step that raises the held-out loss, shorten the next steps, and never publish an adapter
    after such a step; best: the same, but publish the adapter with the lowest loss; last: undo nothing
    """
    patience: Annotated[int, Field(ge=0, le=MOST)] = 0
    """end after this many evaluations without a lower loss; 0 runs all rounds"""
    reference: str = ""
    """also train baselines: central (pooled data), local (each client alone), or both"""

    @field_validator("reference")
    @classmethod
    def _check_reference(cls, reference: str) -> str:
        for kind in parts_of(reference):
            if kind not in ("central", "local"):
                raise ValueError("expected central, local or central,local")
        return reference

    @property
    def references(self) -> tuple[str, ...]:
        """The baselines asked for, in order."""
        return tuple(dict.fromkeys(parts_of(self.reference)))

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        compared = {Trait.FIGURES: "losses are compared", Trait.WAITS: "it is evaluated before the next begins"}
        if self.keep == "best":
            yield self.says("keep", needs=compared, instead="last")
        if self.patience:
            takes = {Trait.LAST_ROUND: "with patience it is not known which that is"}
            yield self.says("patience", needs=compared, takes=takes)
        if self.reference:
            yield self.says("reference", needs={Trait.FIGURES: "baselines show the losses of single clients"})
