"""Settings of the adapter's form and where it begins."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plait.settings.table import Table


class AdapterSettings(Table):
    """The adapter's form and where it begins."""

    table: ClassVar[str] = "adapter"
    heading: ClassVar[str] = "Adapter"

    alpha: Annotated[float, Field(gt=0)] = 16.0
    """sets the scaling factor of B A, alpha / rank"""
    client_ranks: str = ""
    """ranks of the clients, such as 2,4,8: each client trains the largest that it can; simulated clients take them in
    turn; by default all train at `rank`"""
    rank_pattern: str = ""
    """ranks of individual modules, such as q_proj=4,down_proj=16"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """dropout before the adapter"""
    target_modules: str = "all-linear"
    """all-linear, or names separated by commas: q_proj,v_proj"""
    bias: Literal["none", "all", "lora_only"] = "none"
    """which biases of the base LoRA also trains"""
    init_adapter: str = ""
    """adapter to start from, a run or a PEFT directory: DIR, or DIR=WEIGHT,DIR=WEIGHT for a weighted sum; by default
    the method's initial values"""
    init_mode: Literal["continue", "freeze"] = "continue"
    """continue training the initial adapter, or freeze it beneath a new one"""
