"""A node's messages to its operator: one line per event, or one JSON object per event for programs.

Knows nothing of where the events come from; callers make sure that no training text is in a message.
"""

from __future__ import annotations

import json
import time
from enum import Enum, auto
from threading import Lock
from typing import TextIO

from plait.config import Scalar


class Style(Enum):
    """Format of the events."""

    LINES = auto()
    JSON = auto()
    QUIET = auto()


class Journal:
    """Prints events as they come, from any thread."""

    def __init__(self, style: Style, screen: TextIO) -> None:
        self._style = style
        self._screen = screen
        self._lock = Lock()

    @property
    def style(self) -> Style:
        """Format of the events."""
        return self._style

    def tell(self, event: str, text: str, **facts: Scalar) -> None:
        """Print one event.

        Args:
            event: its name, for programs.
            text: the line for people.
            facts: data for programs.
        """
        if self._style is Style.QUIET:
            return
        if self._style is Style.JSON:
            line = json.dumps({"time": round(time.time(), 3), "event": event, "text": text, **facts})
        else:
            line = f"{time.strftime('%H:%M:%S')} {text}"
        try:
            with self._lock:
                self._screen.write(line + "\n")
                self._screen.flush()
        except (OSError, ValueError):
            # The reader of the output has gone; the node continues.
            self._style = Style.QUIET
