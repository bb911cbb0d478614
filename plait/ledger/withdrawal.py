"""What a withdrawal records: that a client withdrew, and the tombstone that stays once all of it is done."""

from __future__ import annotations

from plait.ledger.events import Count, Event


class ClientWithdrawn(Event):
    """A client withdraws; from here on the adapter that it took part in is not released.

    Attributes:
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
