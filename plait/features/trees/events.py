"""What the ledger of a region has, and what is verified of it."""

from __future__ import annotations

from collections.abc import Sequence

from plait.features.trees.settings import levels
from plait.rounds.events import Count, Event, Number, Started
from plait.rounds.run_view import RunView
from plait.rounds.verified import Verified


class RegionStarted(Started):
    """The first event of a region's ledger; its settings are those that the region's clients get.

    Attributes:
        name: at the server above.
    """

    event = "region_started"
    is_public = True
    name: str

    @property
    def peer(self) -> str:
        """What the region exchanges messages with: a client, or in a deeper tree a region."""
        return "region" if len(levels(self.config)) > 1 else "client"

    @property
    def no_run(self) -> tuple[str, str]:
        """See `Started`."""
        return f"of region {self.name!r}", (
            "it has no rounds of its own; `plait verify` checks it, the server above has the report, and it goes on "
            "with the `plait region` command that it was started with, or in a simulation with the run above it"
        )


class RegionSummed(Event):
    """A region has summed its clients' updates, and sends the sum to the server above.

    Attributes:
        round: of the updates.
        clients: whose updates are in the sum, at all levels below.
        received: updates in it, one for each region below.
        weight: of the sum; this and what follows is 0 and empty where the server above adds noise to the sum.
        digest: SHA-256 of its mean, in hexadecimal, as the server above records it.
        uplink_bytes: of the envelope.
    """

    event = "region_summed"
    state = "waiting for the server above"
    is_public = True
    round: Count
    clients: Count
    received: Count
    weight: Number = 0.0
    digest: str = ""
    uplink_bytes: Count = 0


def verifies(events: Sequence[Event]) -> Verified | None:
    """How many sums a region has sent, and of how many updates; None for the ledger of a run."""
    if not events or not isinstance(first := events[0], RegionStarted):
        return None
    summed = len({event.round for event in events if isinstance(event, RegionSummed)})
    updates = RunView.after(events).accepted
    return Verified(
        "sums",
        f"{summed}, of {updates} updates; the server above has the rounds",
        {"region": first.name, "sums": summed, "updates": updates},
    )
