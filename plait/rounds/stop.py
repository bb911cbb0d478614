"""What may be asked of a run while it works: to stop now and continue later, or to end after its round.

Set from a signal handler, a callback or another thread; the run looks at it between two steps of its work.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.errors import Interrupted


@dataclass
class StopRequest:
    """A request to a run in progress.

    Attributes:
        asked: stop before the next client starts to work; the run can be resumed.
        ending: why the run is to end after its current round as if that were its last; empty if it is not to.
        heeded: whether `asked` is checked from time to time; not while libraries or a base are loaded.
    """

    asked: bool = False
    ending: str = ""
    heeded: bool = False

    def check(self) -> None:
        """Go on, unless the run is to stop.

        Raises:
            Interrupted: it is.
        """
        if self.asked:
            raise Interrupted("stopped by the user; everything received so far is saved")
