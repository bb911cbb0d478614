"""Settings of the adapter's form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from plait.settings.table import Table
from plait.traits import Stated, Trait


class AdapterSettings(Table):
    """The adapter's form."""

    table: ClassVar[str] = "adapter"
    heading: ClassVar[str] = "Adapter"

    alpha: Annotated[float, Field(gt=0)] = 16.0
    """sets the scaling factor of B A, alpha / rank"""
    client_ranks: str = ""
    """ranks of the clients, such as 2,4,8: each client trains the largest that it can; simulated clients take them in
    turn; by default all train at `rank`"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """dropout before the adapter"""
    target_modules: str = "all-linear"
    """all-linear, or names separated by commas: q_proj,v_proj"""

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.dropout:
            yield self.says("dropout", takes={Trait.SAMPLES: "dropout takes parts of it away while it learns"})
