"""Settings of the adapter's form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from plait.settings.table import Table, parts_of
from plait.traits import Stated, Trait

# Part of a module name. PEFT would read anything else as a regular expression.
_MODULE_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


class AdapterSettings(Table):
    """The adapter's form."""

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

    @field_validator("rank_pattern")
    @classmethod
    def _check_pattern(cls, pattern: str) -> str:
        for text in parts_of(pattern):
            name, equals, rank = text.partition("=")
            if not (equals and _MODULE_NAME.fullmatch(name) and rank.isascii() and rank.isdigit() and int(rank) >= 1):
                raise ValueError(f"expected MODULE=RANK such as q_proj=4, not '{text}'")
        return pattern

    @property
    def module_ranks(self) -> dict[str, int]:
        """Ranks of the modules for which one is set."""
        pairs = (part.partition("=") for part in parts_of(self.rank_pattern))
        return {name: int(rank) for name, _, rank in pairs}

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.rank_pattern:
            yield self.says("rank_pattern", needs={Trait.ONE_RANK: "it gives ranks by module"})
        if self.dropout:
            yield self.says("dropout", takes={Trait.SAMPLES: "dropout takes parts of it away while it learns"})
        if self.bias != "none":
            yield self.says("bias", takes={Trait.BASE_STAYS: "its biases are trained too"})
