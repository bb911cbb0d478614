"""A callback of one's own: ends a run after a number of rounds."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

import plait


@dataclass
class Rounds:
    """Ends the run after so many rounds."""

    most: Annotated[int, Field(ge=1, description="rounds")] = 3

    def __call__(self, event):
        """Hear of an event."""
        return plait.Stop.END if event.event == "round_finished" and event.round == self.most else None
