"""The server's log: one line an event, ``event=... key=value ...``, on Python's logger ``plait.server``.

Whatever a peer sent is escaped and cut, so that no peer can forge a line or fill the disk with one.
"""

from __future__ import annotations

import json
import logging
import re

LOGGER = logging.getLogger("plait.server")

_MAX_VALUE_CHARACTERS = 200
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+\-\[\]]+")


def say(event: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log an event.

    Args:
        event: one word, or several joined by hyphens.
        level: as in `logging`.
        fields: what to say of it; values that are more than plain words are written as JSON strings in ASCII.
    """
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, "%s", " ".join(f"{key}={shown(value)}" for key, value in {"event": event, **fields}.items()))


def shown(value: object) -> str:
    """A value on one line, in ASCII, of bounded length."""
    text = str(value)
    if len(text) > _MAX_VALUE_CHARACTERS:
        text = f"{text[:_MAX_VALUE_CHARACTERS]}..."
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
