"""Who departs from the protocol where a client says that it cannot open the shares of another.

The accused shows the keys of these parcels alone (`parcel`). If they open them, the complaint was false;
if not, the accused is to blame. It masks nothing in an attempt where it has shown a key, so the key reveals nothing of
its numbers. Knows no channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plait.errors import PeerError
from plait.features.secagg.roster import Roster
from plait.features.secagg.server import Collecting


@dataclass(frozen=True)
class Verdict:
    """What complaints come to.

    Attributes:
        senders: places of those whose shares cannot be opened.
        accusers: places of those that complained of shares that can be.
        unheard: places of accused that showed no keys.
    """

    senders: frozenset[int]
    accusers: frozenset[int]
    unheard: frozenset[int]


def check_complaint(roster: Roster, sharers: Sequence[int], client: str, places: Sequence[int]) -> None:
    """Refuse a complaint about others than those that sent a client something.

    Raises:
        PeerError: what is wrong.
    """
    roster.check_places(places, "clients whose shares cannot be opened")
    me = roster.place(client)
    if not set(places) <= (set(roster.holders(me)) & set(sharers)) - {me}:
        raise PeerError(f"{client!a} cannot open shares of clients that sent it none, expected neighbours that shared")


def accused_by(complaints: Mapping[int, Sequence[int]]) -> Mapping[int, tuple[int, ...]]:
    """Places of those who cannot open what a client sent, by the place of that client."""
    accused = sorted({sender for senders in complaints.values() for sender in senders})
    return {
        sender: tuple(sorted(accuser for accuser, senders in complaints.items() if sender in senders))
        for sender in accused
    }


def judge(
    collecting: Collecting, complaints: Mapping[int, Sequence[int]], shown: Mapping[int, Mapping[int, bytes]]
) -> Verdict:
    """The clients to blame; never empty.

    Args:
        shown: keys of parcels, by the place of the sender, then of the receiver.
    """
    senders, accusers = set[int](), set[int]()
    accused = accused_by(complaints)
    for sender in accused.keys() & shown.keys():
        for receiver in accused[sender]:
            is_readable = collecting.is_readable(sender, receiver, shown[sender].get(receiver, b""))
            (accusers if is_readable else senders).add(receiver if is_readable else sender)
    return Verdict(frozenset(senders), frozenset(accusers), frozenset(accused.keys() - shown.keys()))
