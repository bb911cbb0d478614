"""What a node tells its operator: a calm line an event, or a JSON object an event for programs.

Knows nothing of where the events come from; whoever tells sees to it that no training text is among the words.
"""

from __future__ import annotations

import json
import time
from enum import Enum, auto
from threading import Lock
from typing import TextIO

from plait.config import Scalar


class Style(Enum):
    """How events are shown."""

    LINES = auto()
    JSON = auto()
    QUIET = auto()


class Journal:
    """Shows events as they come, from any thread.

    Args:
        style: how.
        screen: where to.
    """

    def __init__(self, style: Style, screen: TextIO) -> None:
        self._style = style
        self._screen = screen
        self._lock = Lock()

    @property
    def style(self) -> Style:
        """How events are shown."""
        return self._style

    def tell(self, event: str, text: str, **facts: Scalar) -> None:
        """Show one event.

        Args:
            event: its name, for programs.
            text: the line for people.
            facts: what programs may want of it.
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
            # Whoever looked at it is gone; the node works on.
            self._style = Style.QUIET
