"""What all clients of a masked round agree on: the session, all keys, the grid, and who shares with whom.

*Graph.* Masks and secrets are shared by all with all, or above 256 clients along 32 random cycles that follow from the
roster (after Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", arXiv 2020/704).

*Why a server learns no part.* Two thirds sign one list of survivors, each client only one, so fewer than a third of
colluders get one list (above 256: a tenth). A client signs only a list with two thirds of its holders, each of which
signed that it masked with the same sharers. So a set whose sum can be unmasked has no honest survivor as a neighbour
outside: where all are neighbours the set is every honest survivor; along the cycles it is at least half of the
clients, but with a chance below 2^-80 for each roster up to 2,000 clients and 2^-75 for the largest
(`tests/plait/secagg/graph_bound.py`).

*Parcels.* Each parcel of two shares has a key pair of its own (X25519; as ECIES). If the holder cannot open it, the
sender shows the private half, which opens nothing else: anyone can decide which of the two departs from the protocol.
Digests of the shares stand beside them in clear, so a share that is given later is the sender's or not.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from pydantic import ConfigDict

from plait.errors import PeerError
from plait.guarantees import COMPLETE, LEAST_CLIENTS, least_survivors, threshold_of
from plait.trust.keys import KEY_BYTES, SIGNATURE_BYTES, Vouch, derived, verify
from plait.trust.masks import LEAST_BITS, MOST_BITS, SHARE_BYTES, agreed, check_share, public_of

CYCLES = 32
"""Through all clients of a larger roster, along which they are neighbours."""


@lru_cache(maxsize=16)
def neighbours(count: int, roster: bytes) -> tuple[tuple[int, ...], ...]:
    """Each client's neighbours, by its place in the roster, in ascending order."""
    if count <= COMPLETE:
        return tuple(tuple(other for other in range(count) if other != one) for one in range(count))
    stream = Cipher(AES(roster), CTR(bytes(16))).encryptor().update(bytes(8 * CYCLES * count))
    cycles = np.frombuffer(stream, "<u8").reshape(CYCLES, count).argsort(axis=1, kind="stable")
    found = [set[int]() for _ in range(count)]
    for one, other in zip(cycles.ravel().tolist(), np.roll(cycles, 1, axis=1).ravel().tolist(), strict=True):
        found[one].add(other)
        found[other].add(one)
    return tuple(tuple(sorted(each)) for each in found)


MOST_CLIENTS = 1 << 14
MOST_FIGURES = 0xFFFF
RUN_ID_BYTES = ATTEMPT_BYTES = 16
AS_HEX = ConfigDict(ser_json_bytes="hex", val_json_bytes="hex")
"""How values of a sum are stored as JSON."""


@dataclass(frozen=True)
class MaskedAttempt:
    """One attempt at a masked sum, to ``train`` or to ``evaluate``, with 16 bytes of its own."""

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

    `identity` is Ed25519; shares are encrypted to `encryption`, masks agreed with `masking` (X25519); `commitment` is
    SHA-256 of the seed of its own mask. Certificate (DER) and endorsement of `identity` are empty in a simulation.
    """

    client: str
    identity: bytes
    encryption: bytes
    masking: bytes
    commitment: bytes
    signature: bytes = b""
    certificate: bytes = b""
    endorsement: bytes = b""

    def signed(self, session: MaskedAttempt) -> bytes:
        """What its signature covers."""
        keys = self.identity, self.encryption, self.masking, self.commitment
        return joined(b"plait secure aggregation: keys 1", session.text, self.client.encode(), *keys)

    def check(self, session: MaskedAttempt, vouch: Vouch) -> None:
        """Refuse keys that the named client did not offer for this session."""
        for key in (self.identity, self.encryption, self.masking, self.commitment):
            if len(key) != KEY_BYTES:
                raise PeerError(f"a key of {self.client!a} has {len(key)} bytes, expected {KEY_BYTES}")
        if not vouch(self.client, self.identity, self.certificate, self.endorsement):
            raise PeerError(f"the node key of {self.client!a} is not the one that was provisioned")
        if len(self.signature) != SIGNATURE_BYTES or not is_signed(self.identity, self.signature, self.signed(session)):
            raise PeerError(f"the keys of {self.client!a} are not signed for this attempt")


@dataclass(frozen=True)
class Roster:
    """The clients of an attempt, by name, and the grid of the round: `size` rotated numbers, and further `figures`."""

    session: MaskedAttempt
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
        """A client's place."""
        if client not in self._places:
            raise PeerError(f"{client!a} is not on the roster of this attempt")
        return self._places[client]

    def holders(self, place: int) -> tuple[int, ...]:
        """Who holds the shares of a client's secrets, in the order of their points: its neighbours and itself."""
        return tuple(sorted((*neighbours(len(self.offers), self.digest)[place], place)))

    def share_threshold(self, place: int) -> int:
        """Shares that give a client's secrets."""
        return threshold_of(len(self.holders(place)))

    def check(self, vouch: Vouch) -> None:
        """Refuse a roster that does not protect its clients."""
        count = len(self.offers)
        if not LEAST_CLIENTS <= count <= MOST_CLIENTS:
            raise PeerError(f"roster has {count} clients, expected {LEAST_CLIENTS} to {MOST_CLIENTS}")
        names = [offer.client for offer in self.offers]
        if names != sorted(set(names)):
            raise PeerError("roster names a client twice or is not sorted")
        for what in ("identity", "encryption", "masking"):
            if len({getattr(offer, what) for offer in self.offers}) != count:
                raise PeerError(f"roster has one {what} key for two clients")
        if not LEAST_BITS <= self.bits <= MOST_BITS or not 0 < self.unit < 1e30 or self.figures > MOST_FIGURES:
            raise PeerError(f"roster has an impossible grid of {self.bits} bits and unit {self.unit:g}")
        for offer in self.offers:
            offer.check(self.session, vouch)

    def check_places(self, places: Sequence[int], what: str) -> None:
        """Refuse a list that is not of different places in order."""
        if list(places) != sorted(set(places)) or (places and not 0 <= places[0] <= places[-1] < len(self.offers)):
            raise PeerError(f"list of {what} has a place twice, out of order or off the roster")

    def masked_text(self, sharers: Sequence[int]) -> bytes:
        """What a client signs with its masked numbers: with whom they are masked."""
        return joined(b"plait secure aggregation: masked 1", self.digest, _listed(sharers))

    def survivors_text(self, sharers: Sequence[int], survivors: Sequence[int]) -> bytes:
        """What clients sign before anything is unmasked."""
        return joined(b"plait secure aggregation: survivors 1", self.digest, _listed(sharers), _listed(survivors))


def _listed(places: Sequence[int]) -> bytes:
    return np.array(places, ">u4").tobytes()


def joined(*parts: bytes) -> bytes:
    """The parts, so that no two lists of them are the same bytes."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


@lru_cache(maxsize=1 << 12)
def is_signed(public_key: bytes, signature: bytes, signed: bytes) -> bool:
    """`plait.trust.keys.verify`, once for all clients of a simulation."""
    return verify(public_key, signature, signed)


_NONCE = bytes(12)  # every key encrypts one message
_DIGEST_BYTES = 32
_TEXT_AT = KEY_BYTES + 2 * _DIGEST_BYTES
PARCEL_BYTES = _TEXT_AT + 2 * SHARE_BYTES + 16


def parcel_key(secret: bytes, roster: Roster, receiver: int) -> bytes:
    """The private key of the parcel to a place, 32 bytes: of this attempt alone, and it reveals nothing of others."""
    return derived(secret, b"parcel", roster.digest, receiver.to_bytes(4, "big"))


def seal_shares(pair: tuple[bytes, bytes], key: bytes, roster: Roster, *, sender: int, receiver: int) -> bytes:
    """A parcel, from the place of the client whose secrets they are."""
    cipher = _cipher(key, roster.offers[receiver].encryption, roster, sender)
    digests = b"".join(hashlib.sha256(share).digest() for share in pair)
    return public_of(key) + digests + cipher.encrypt(_NONCE, b"".join(pair), None)


def open_shares(parcel: bytes, private: bytes, roster: Roster, *, sender: int) -> tuple[bytes, bytes]:
    """What is in a parcel, for its holder."""
    return _opened(parcel, private, parcel[:KEY_BYTES], roster, sender)


def digests_in(parcel: bytes) -> tuple[bytes, bytes]:
    """SHA-256 of the shares of the masking key and of the seed, as the sender states them."""
    return parcel[KEY_BYTES : KEY_BYTES + _DIGEST_BYTES], parcel[KEY_BYTES + _DIGEST_BYTES : _TEXT_AT]


def can_be_opened(parcel: bytes, key: bytes, roster: Roster, *, sender: int, receiver: int) -> bool:
    """Whether a parcel holds two shares, given its own private key; not with another key."""
    if len(key) != KEY_BYTES or public_of(key) != parcel[:KEY_BYTES]:
        return False
    try:
        _opened(parcel, key, roster.offers[receiver].encryption, roster, sender)
    except PeerError:
        return False
    return True


def _opened(parcel: bytes, private: bytes, public: bytes, roster: Roster, sender: int) -> tuple[bytes, bytes]:
    try:
        text = _cipher(private, public, roster, sender).decrypt(_NONCE, parcel[_TEXT_AT:], None)
    except (InvalidTag, ValueError):
        raise PeerError(f"shares of {roster.offers[sender].client!a} cannot be opened") from None
    pair = check_share(text[:SHARE_BYTES]), check_share(text[SHARE_BYTES:])
    if any(hashlib.sha256(share).digest() != digest for share, digest in zip(pair, digests_in(parcel), strict=True)):
        raise PeerError(f"shares of {roster.offers[sender].client!a} do not match their digests")
    return pair


def _cipher(private: bytes, public: bytes, roster: Roster, sender: int) -> AESGCM:
    return AESGCM(agreed(private, public, b"shares", roster.digest, sender.to_bytes(4, "big")))
