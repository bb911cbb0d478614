"""What the runs of a federation may use of its server, and what ends one that uses more."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from plait.features.standing.retention import size_of
from plait.rounds.events import ClientTurnedAway, Event, RoundFinished, RoundStarted, WaitingForClients
from plait.rounds.stop import StopRequest

GIVE_UP_S = 120.0
"""Seconds after which a run ends whose clients cannot take part."""

_MOST_NAMED = 3


@dataclass(frozen=True)
class RunLimits:
    """What runs may use of the server.

    Attributes:
        keep_runs: runs that are over keep everything if they are among so many newest; None for all.
        run_quota_bytes: the most that a run's directory may have; None for as much as there is.
    """

    give_up_s: float = GIVE_UP_S
    keep_runs: int | None = None
    run_quota_bytes: int | None = None


class Patience:
    """Ends a run whose connected clients cannot take part, so that the queue goes on; not one that waits for some."""

    def __init__(self, seconds: float, stop: StopRequest) -> None:
        self._seconds = seconds
        self._stop = stop
        self._timer: threading.Timer | None = None
        self._why: dict[str, str] = {}
        self._has_begun = False
        self.reason = ""

    def hear(self, event: Event) -> None:
        """Notice an event of the run."""
        match event:
            case RoundStarted():
                self._has_begun = True
                self.close()
            case ClientTurnedAway():
                self._why[event.client] = event.detail or event.reason
            case WaitingForClients() if not self._has_begun:
                self.close()
                if event.unfit and event.here - event.unfit < event.wanted:
                    self._wait(f"{event.unfit} of {event.here} connected clients cannot take part, {event.wanted} must")
            case _:
                pass

    def close(self) -> None:
        """Stop waiting."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, what: str) -> None:
        def give_up() -> None:
            why = "; ".join(f"{client}: {detail}" for client, detail in list(self._why.items())[:_MOST_NAMED])
            self.reason = f"{what}: {why}"
            self._stop.asked = True

        self._timer = threading.Timer(self._seconds, give_up)
        self._timer.daemon = True
        self._timer.start()


class Quota:
    """Ends a run whose directory has grown beyond its quota, once a round has ended: everything until then is whole.

    Args:
        most_bytes: that it may have; None for any number.
    """

    def __init__(self, folder: Path, most_bytes: int | None, stop: StopRequest) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._stop = stop
        self.reason = ""

    def hear(self, event: Event) -> None:
        """Notice an event of the run."""
        if self._most_bytes is None or not isinstance(event, (RoundStarted, RoundFinished)):
            return
        if (size := size_of(self._folder)) > self._most_bytes:
            self.reason = (
                f"run has {gigabytes(size)} at the server, expected at most {gigabytes(self._most_bytes)} "
                f"(--run-quota-gb); it ended in round {event.round}"
            )
            self._stop.asked = True


def gigabytes(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.3g} GB"
