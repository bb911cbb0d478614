"""The data sets that plait knows by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from plait.data.records import Dataset, Progress
from plait.places import OnDemand

BUILTINS: OnDemand[Callable[[Path, Progress], Dataset]] = OnDemand(
    {
        "bbc": "plait.data.bbc:load",
        "chatterbot": "plait.data.chatterbot:load",
        "stdlib": "plait.data.stdlib:load",
    }
)
