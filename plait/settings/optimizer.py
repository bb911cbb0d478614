"""Settings of AdamW at the clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plait.settings.table import MOST, Table
from plait.traits import Stated, Trait


class OptimizerSettings(Table):
    """AdamW at the clients."""

    table: ClassVar[str] = "optimizer"
    heading: ClassVar[str] = "Clients' optimizer"

    learning_rate: Annotated[float, Field(ge=0, le=1e3)] = 0.0
    """AdamW's peak learning rate (0 finds it); each client then finds its own in its first step"""
    lr_schedule: Literal["auto", "constant", "linear", "slope"] = "auto"
    """learning rate schedule over the whole run; slope lets a client's rate follow the slope of its loss along its last
    step; auto is slope where no rate is given (linear with classes and 20 steps or more), but constant with scaffold,
    feddyn, dp, a trainer, a reward or a rule that keeps the nearest updates"""
    warmup_steps: Annotated[int, Field(ge=0, le=MOST)] = 0
    """steps over which the learning rate rises from 0"""
    weight_decay: Annotated[float, Field(ge=0, le=1e3)] = 0.0
    """AdamW's decoupled weight decay"""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """norm that gradients are clipped to"""

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.lr_schedule == "slope":
            yield self.says("lr_schedule", needs={Trait.SLOPES: "the rate follows it"})
        if self.is_given("max_grad_norm"):
            yield self.says("max_grad_norm", needs={Trait.WHOLE_GRADIENT: ""})
