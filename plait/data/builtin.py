"""The data sets that plait knows by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from plait.data import bbc, chatterbot, stdlib
from plait.data.packages import Progress
from plait.data.records import Dataset

BUILTINS: Mapping[str, Callable[[Path, Progress], Dataset]] = {
    "bbc": bbc.load,
    "chatterbot": chatterbot.load,
    "stdlib": stdlib.load,
}
