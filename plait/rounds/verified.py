"""What `plait verify` says of a run, or of a feature's part in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Verified:
    """What was checked."""

    name: str
    text: str
    figures: Mapping[str, object] = field(default_factory=dict[str, object])
