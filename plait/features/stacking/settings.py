"""Where an adapter begins."""

import math
from pathlib import Path
from typing import ClassVar

from pydantic import field_validator

from plait.files import at_home
from plait.settings.table import Table, parts_of


class Stacking(Table):
    """Where the adapter begins."""

    table: ClassVar[str] = "adapter"
    heading: ClassVar[str] = "Where the adapter begins"

    init_adapter: str = ""
    """adapter to start from, a run or a PEFT directory: DIR, or DIR=WEIGHT,DIR=WEIGHT for a weighted sum; by default
    the method's initial values"""

    @field_validator("init_adapter")
    @classmethod
    def _check_weights(cls, given: str) -> str:
        for path, weight in map(_weighted, parts_of(given)):
            if not weight:
                raise ValueError(f"expected another weight of '{path}' than 0")
        return given

    @property
    def init_adapters(self) -> tuple[tuple[Path, float], ...]:
        """The adapters to begin with and their weights."""
        return tuple(map(_weighted, parts_of(self.init_adapter)))


def _weighted(text: str) -> tuple[Path, float]:
    path, _, weight = text.rpartition("=")
    try:
        number = float(weight) if path else math.nan
    except ValueError:
        number = math.nan
    # A directory may have an equals sign in its name.
    return (at_home(path), number) if math.isfinite(number) else (at_home(text), 1.0)
