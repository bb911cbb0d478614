"""A feature from outside plait: each round keeps the updates with the smallest norms."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from plait.feature import Feature
from plait.settings.table import Table
from plait.traits import Trait


class Smallest(Table):
    """How many updates a round keeps."""

    table: ClassVar[str] = "smallest"
    heading: ClassVar[str] = "Smallest updates"

    smallest_kept: Annotated[int, Field(ge=0)] = 0
    """updates with the smallest norms that a round keeps; 0 for all"""


FEATURE = Feature(
    name="smallest",
    help="keeps each round's updates with the smallest norms",
    settings=Smallest,
    events={"left_out_as_large": "smallest.fold:LeftOutAsLarge"},
    sections=("smallest.report:left_out_table",),
    needs={Trait.SINGLE_UPDATES: "their norms are compared", Trait.ONE_SERVER: "their norms are compared"},
    way="smallest.fold:with_smallest",
)
