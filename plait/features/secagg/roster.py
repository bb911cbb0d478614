"""What all clients of a masked round agree on: the session, all keys, and the grid; under one digest.

Knows no channel and no secret.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from plait.errors import PeerError
from plait.features.secagg.graph import LEAST_CLIENTS, least_survivors, neighbours, threshold_of
from plait.features.secagg.ring import LEAST_BITS, MOST_BITS
from plait.trust.derived import KEY_BYTES
from plait.trust.identity import Vouch
from plait.trust.keys import SIGNATURE_BYTES, verify

MOST_CLIENTS = 1 << 14
MOST_FIGURES = 64
RUN_ID_BYTES = ATTEMPT_BYTES = 16


@dataclass(frozen=True)
class Session:
    """One attempt at one masked sum.

    Attributes:
        run_id: 16 bytes.
        purpose: ``train`` or ``evaluate``.
        attempt: 16 bytes at random, so that no attempt's keys are another's.
    """

    run_id: bytes
    purpose: str
    round: int
    attempt: bytes

    @property
    def series(self) -> str:
        """Its run and purpose, of which every round is unmasked at most once."""
        return f"{self.run_id.hex()} {self.purpose}"

    @property
    def text(self) -> bytes:
        """All of it, in one way only."""
        return joined(self.run_id, self.purpose.encode(), struct.pack(">Q", self.round), self.attempt)


@dataclass(frozen=True)
class Offer:
    """A client's keys for one attempt, signed with its node key.

    Attributes:
        identity: its Ed25519 key, 32 bytes.
        encryption: X25519 key that shares are encrypted to, 32 bytes.
        masking: X25519 key that masks are agreed with, 32 bytes.
        commitment: SHA-256 of the seed of its own mask.
        signature: Ed25519 over all of the above and the session.
        certificate: the client's, by the federation's authority (DER); empty in a simulation.
        endorsement: signature by the certificate's key that `identity` is the client's.
    """

    client: str
    identity: bytes
    encryption: bytes
    masking: bytes
    commitment: bytes
    signature: bytes = b""
    certificate: bytes = b""
    endorsement: bytes = b""

    def signed(self, session: Session) -> bytes:
        """What its signature covers."""
        keys = self.identity, self.encryption, self.masking, self.commitment
        return joined(b"plait secure aggregation: keys 1", session.text, self.client.encode(), *keys)

    def check(self, session: Session, vouch: Vouch) -> None:
        """Refuse keys that the named client did not offer for this session.

        Raises:
            PeerError: what is wrong.
        """
        for key in (self.identity, self.encryption, self.masking, self.commitment):
            if len(key) != KEY_BYTES:
                raise PeerError(f"a key of {self.client!a} has {len(key)} bytes, expected {KEY_BYTES}")
        if not vouch(self):
            raise PeerError(f"the node key of {self.client!a} is not its own, expected the one that was provisioned")
        if len(self.signature) != SIGNATURE_BYTES or not is_signed(self.identity, self.signature, self.signed(session)):
            raise PeerError(f"the keys of {self.client!a} are not signed for this session, expected its signature")


@dataclass(frozen=True)
class Roster:
    """The clients of an attempt, by name, and the grid of the round.

    Attributes:
        size: numbers that each client sends, rotated; 0 for figures only.
        figures: further whole numbers that are summed.
    """

    session: Session
    offers: tuple[Offer, ...]
    bits: int
    unit: float
    size: int
    figures: int
    _places: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {offer.client: place for place, offer in enumerate(self.offers)})

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of everything in it."""
        grid = struct.pack(">BdQH", self.bits, self.unit, self.size, self.figures)
        offers = (joined(offer.signed(self.session), offer.signature) for offer in self.offers)
        return hashlib.sha256(joined(b"plait secure aggregation: roster 1", grid, *offers)).digest()

    @property
    def threshold(self) -> int:
        """Clients that must sign the list of survivors, and so the fewest survivors."""
        return least_survivors(len(self.offers))

    def place(self, client: str) -> int:
        """A client's place.

        Raises:
            PeerError: it is not in the roster.
        """
        if client not in self._places:
            raise PeerError(f"{client!a} is not on the roster of this attempt, expected one of its clients")
        return self._places[client]

    def holders(self, place: int) -> tuple[int, ...]:
        """Who holds the shares of a client's secrets, in the order of their points: its neighbours and itself."""
        return tuple(sorted((*neighbours(len(self.offers), self.digest)[place], place)))

    def share_threshold(self, place: int) -> int:
        """Shares that give a client's secrets."""
        return threshold_of(len(self.holders(place)))

    def check(self, vouch: Vouch) -> None:
        """Refuse a roster that does not protect its clients.

        Raises:
            PeerError: what is wrong.
        """
        count = len(self.offers)
        if not LEAST_CLIENTS <= count <= MOST_CLIENTS:
            raise PeerError(f"roster has {count} clients, expected {LEAST_CLIENTS} to {MOST_CLIENTS}")
        names = [offer.client for offer in self.offers]
        if names != sorted(set(names)):
            raise PeerError("roster names a client twice or is not in order, expected every name once, sorted")
        for what in ("identity", "encryption", "masking"):
            if len({getattr(offer, what) for offer in self.offers}) != count:
                raise PeerError(f"roster has one {what} key for two clients, expected a key for each")
        if not LEAST_BITS <= self.bits <= MOST_BITS or not 0 < self.unit < 1e30 or self.figures > MOST_FIGURES:
            raise PeerError(f"roster has a grid of {self.bits} bits and unit {self.unit:g}, expected one that can be")
        for offer in self.offers:
            offer.check(self.session, vouch)

    def check_places(self, places: Sequence[int], what: str) -> None:
        """Refuse a list that is not of different places in order.

        Raises:
            PeerError: what is wrong.
        """
        if list(places) != sorted(set(places)) or (places and not 0 <= places[0] <= places[-1] < len(self.offers)):
            raise PeerError(f"list of {what} has a place twice, out of order or off the roster, expected each once")

    def survivors_text(self, sharers: Sequence[int], survivors: Sequence[int]) -> bytes:
        """What clients sign before anything is unmasked."""
        lists = (b"".join(place.to_bytes(4, "big") for place in places) for places in (sharers, survivors))
        return joined(b"plait secure aggregation: survivors 1", self.digest, *lists)


def joined(*parts: bytes) -> bytes:
    """The parts, so that no two lists of them are the same bytes."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


@lru_cache(maxsize=1 << 12)
def is_signed(public_key: bytes, signature: bytes, signed: bytes) -> bool:
    """`plait.trust.keys.verify`, once for all clients of a simulation."""
    return verify(public_key, signature, signed)
