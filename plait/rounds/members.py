"""What a region says of who its clients are: enough to notice a client in two regions, and no names.

A guessed name can be tested; two clients of different names are two clients. Knows no channel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from plait.wire.bounds import MEMBER_BYTES
from plait.wire.messages import ClientCard

_MOST = 1 << 16
"""Members of a region; one with more says none, for a description has room for a megabyte."""


def stated(cards: Mapping[str, ClientCard]) -> bytes:
    """The members of a region with these clients, or regions, by name."""
    members = sorted(each for name, card in cards.items() for each in members_of(name, card))
    return b"".join(members) if len(members) <= _MOST else b""


def members_of(name: str, card: ClientCard) -> frozenset[bytes]:
    """What stands for a client, or for those of a region."""
    if not card.clients:
        return frozenset({hashlib.sha256(b"member of a region " + name.encode()).digest()[:MEMBER_BYTES]})
    starts = range(0, len(card.members), MEMBER_BYTES)
    return frozenset(card.members[at : at + MEMBER_BYTES] for at in starts)


def shared_with(members: frozenset[bytes], others: Iterable[tuple[str, frozenset[bytes]]]) -> str:
    """The first of the others that has one of these members; empty if none does."""
    return next((name for name, theirs in others if not members.isdisjoint(theirs)), "")
