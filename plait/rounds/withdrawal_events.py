"""What a withdrawal records: that a client withdrew, and the tombstone that stays once all of it is done.

The report has a table of them.
"""

from __future__ import annotations

from plait.report.table import Table
from plait.rounds.events import Count, Event
from plait.rounds.run_view import RunView


class ClientWithdrawn(Event):
    """A client withdraws; from here on the adapter that it took part in is not released.

    Attributes:
        client: its name.
        first_round: the first round that its update counted in; 0 if none did.
        way: ``exact``: the others train again; ``promised``: differential privacy of clients covers it.
    """

    event = "client_withdrawn"
    client: str
    first_round: Count = 0
    way: str = "exact"


class Withdrawn(Event):
    """The tombstone: the withdrawal is complete.

    Attributes:
        client: its name.
        way: as in `ClientWithdrawn`.
        adapter: digest of the adapter that takes the place of the old one; empty where the old one stays.
        run: id of the run that made it, in hexadecimal; empty where none did.
        erased: files of the client's that were removed, in the run's directory.
        by: the operator who signed; empty if unsigned.
        certificate: the operator's, in PEM.
        signature: by its key, in hexadecimal, over the canonical JSON of old run, client, way, adapter and run.
    """

    event = "withdrawn"
    client: str
    way: str = "exact"
    adapter: str = ""
    run: str = ""
    erased: tuple[str, ...] = ()
    by: str = ""
    certificate: str = ""
    signature: str = ""


def withdrawal_table(view: RunView) -> Table:
    """Each client that withdrew; it was complete once it has a tombstone."""
    events = view.of_features
    asked = [each for each in events.get("client_withdrawn", ()) if isinstance(each, ClientWithdrawn)]
    done = {each.client: each for each in events.get("withdrawn", ()) if isinstance(each, Withdrawn)}
    rows = tuple((each.client, each.way, _became(done.get(each.client))) for each in asked)
    return Table(title="Withdrawn", headings=("client", "way", "adapter"), rows=rows, text_columns=(0, 1, 2))


def _became(tombstone: Withdrawn | None) -> str:
    if tombstone is None:
        return "not complete"
    return f"{tombstone.adapter[:16]} of run {tombstone.run[:16]}" if tombstone.adapter else "as it was"
