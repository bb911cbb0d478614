"""Settings of what is evaluated, how often, and what follows from it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plait.settings.table import MOST, Table


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
    """clients that evaluate, the same ones each time; 0 means all, or where only some take part in a round as many as
    that, and at least 8"""
    keep: Literal["accepted", "best", "last"] = "accepted"
    """accepted: undo half of a step after which the held-out loss is higher, shorten the next steps, and publish no
    adapter after such a step; best: the same, but publish that of the lowest loss; last: undo nothing"""
    patience: Annotated[int, Field(ge=0, le=MOST)] = 0
    """end after this many evaluations without a lower loss; 0 runs all rounds"""
    reference: str = ""
    """also train baselines: central (pooled data), local (each client alone), or both"""
