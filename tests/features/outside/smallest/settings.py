"""How many updates are kept."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from plait.settings.table import Table


class Smallest(Table):
    """How many updates a round keeps."""

    table: ClassVar[str] = "smallest"
    heading: ClassVar[str] = "Smallest updates"

    smallest_kept: Annotated[int, Field(ge=0)] = 0
    """updates with the smallest norms that a round keeps; 0 for all"""
