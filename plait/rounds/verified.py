"""What `plait verify` says of a feature's part in a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was checked.

    Attributes:
        name: of the line.
        text: the line.
        figures: for programs, by name.
    """

    name: str
    text: str
    figures: Mapping[str, object]
