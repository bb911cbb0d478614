"""A node's messages to its operator, without training text: a line per event, or a JSON object for programs."""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from threading import Lock
from typing import TextIO

from plait.config import Scalar
from plait.system.text import fitted, printable

_MOST_CHARACTERS = 200


def shown(text: str) -> str:
    """Text from outside as one short printable line."""
    return printable(text, limit=_MOST_CHARACTERS)


def failure(error: BaseException) -> str:
    """The type and place of a failure; never the error's own message, which may quote training text."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


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

    def report(self, event: str, text: str, **facts: Scalar) -> None:
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
