"""Texts for an operator: outside text made safe to print, and failures described without their content."""

from __future__ import annotations

import traceback
from pathlib import Path

from plait.text import printable

_MOST_CHARACTERS = 200


def shown(text: str) -> str:
    """Text from outside as one short printable line."""
    return printable(text, limit=_MOST_CHARACTERS)


def failure(error: BaseException) -> str:
    """The type and place of a failure; never the error's own message, which may quote training text."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def size(count: int) -> str:
    """A number of bytes for people."""
    if count < 1000:
        return f"{count} B"
    for unit, divisor in (("kB", 1e3), ("MB", 1e6)):
        if count < 1000 * divisor:
            return f"{count / divisor:.1f} {unit}"
    return f"{count / 1e9:.1f} GB"
