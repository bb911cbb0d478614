"""Which correction clients' steps have."""

from collections.abc import Iterator
from typing import ClassVar

from pydantic import field_validator

from plait.errors import ConfigError
from plait.features.corrections.correction import correction_named
from plait.settings.table import Table
from plait.traits import Stated


class Corrections(Table):
    """What draws clients' local steps together."""

    table: ClassVar[str] = "learning"
    heading: ClassVar[str] = "Drift of the clients"

    correction: str = "none"
    """what corrects clients' local steps for their drift from each other: none, scaffold, feddyn:alpha=0.1,
    fedprox:mu=0.01"""

    @field_validator("correction")
    @classmethod
    def _check_correction(cls, given: str) -> str:
        try:
            correction_named(given)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return given

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if correction := correction_named(self.correction):
            yield self.says("correction", needs=correction.needs, takes=correction.takes)
