"""What a withdrawal records: that a client withdrew, and the tombstone that stays once all of it is done."""

from __future__ import annotations

from plait.ledger.events import Count, Event


class ClientWithdrawn(Event):
    """A client withdraws; from here on the adapter that it took part in is not released."""

    event = "client_withdrawn"
    client: str
    first_round: Count = 0  # the first round that its update counted in; 0 if none did
    way: str = "exact"  # ``exact``: the others train again; ``promised``: differential privacy of clients covers it


class Withdrawn(Event):
    """The tombstone: the withdrawal is complete."""

    event = "withdrawn"
    client: str
    way: str = "exact"  # as in `ClientWithdrawn`
    adapter: str = ""  # digest of the adapter that takes the place of the old one; empty where the old one stays
    run: str = ""  # id of the run that made it, in hexadecimal; empty where none did
    erased: tuple[str, ...] = ()  # files of the client's that were removed, in the run's directory
    by: str = ""  # the operator who signed; empty if unsigned
    certificate: str = ""  # the operator's, in PEM
    signature: str = ""  # by its key, in hexadecimal, over the canonical JSON of old run, client, way, adapter and run
