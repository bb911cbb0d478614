"""A node's messages to its operator: one line per event, or one JSON object per event for programs.

Knows nothing of where the events come from; callers make sure that no training text is in a message.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from enum import Enum, auto
from threading import Lock
from typing import TextIO

from plait.config import Scalar
from plait.text import fitted


class Style(Enum):
    """Format of the events."""

    LINES = auto()
    JSON = auto()
    QUIET = auto()


@dataclass(eq=False)
class Journal:
    """Prints events as they come, from any thread."""

    style: Style
    screen: TextIO

    def __post_init__(self) -> None:
        self._lock = Lock()

    def tell(self, event: str, text: str, **facts: Scalar) -> None:
        """Print one event."""
        if self.style is Style.QUIET:
            return
        if self.style is Style.JSON:
            line = json.dumps({"time": round(time.time(), 3), "event": event, "text": text, **facts})
        else:
            line = f"{time.strftime('%H:%M:%S')} {text}"
        try:
            with self._lock:
                self.screen.write(fitted(line, self.screen, indent=len("HH:MM:SS ")) + "\n")
                self.screen.flush()
        except (OSError, ValueError):
            # The reader of the output has gone; the node continues.
            self.style = Style.QUIET
