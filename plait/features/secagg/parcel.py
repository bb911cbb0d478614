"""The two shares that a client sends to one holder, encrypted under a key of this message alone.

The sender makes a key pair for each parcel and agrees with the holder's key (X25519; as ECIES does). If the holder says
that it cannot open a parcel, the sender shows that pair's private half: it opens this parcel and no other message, so
anyone with the parcel can tell which of the two departs from the protocol. The shares' digests stand beside them in
clear: a share that its holder gives later is theirs or not, and if all are and give no secret, the sender is to blame.
Knows no stage.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from plait.errors import PeerError
from plait.features.secagg.masks import agreed, public_of
from plait.features.secagg.roster import Roster
from plait.features.secagg.sharing import SHARE_BYTES, check_share
from plait.trust.derived import KEY_BYTES, derived

_NONCE = bytes(12)  # every key encrypts one message
_DIGEST_BYTES = 32
_TEXT_AT = KEY_BYTES + 2 * _DIGEST_BYTES
PARCEL_BYTES = _TEXT_AT + 2 * SHARE_BYTES + 16


def parcel_key(secret: bytes, roster: Roster, receiver: int) -> bytes:
    """The private key of the parcel to a place, 32 bytes: of this attempt alone, and it says nothing of others."""
    return derived(secret, b"parcel", roster.digest, receiver.to_bytes(4, "big"))


def seal_shares(pair: tuple[bytes, bytes], key: bytes, roster: Roster, *, sender: int, receiver: int) -> bytes:
    """A parcel.

    Args:
        sender: place of the client whose secrets they are.
    """
    cipher = _cipher(key, roster.offers[receiver].encryption, roster, sender)
    digests = b"".join(hashlib.sha256(share).digest() for share in pair)
    return public_of(key) + digests + cipher.encrypt(_NONCE, b"".join(pair), None)


def open_shares(parcel: bytes, private: bytes, roster: Roster, *, sender: int) -> tuple[bytes, bytes]:
    """What is in a parcel, for its holder.

    Raises:
        PeerError: it cannot be opened, or holds no shares of these digests.
    """
    return _opened(parcel, private, parcel[:KEY_BYTES], roster, sender)


def digests_in(parcel: bytes) -> tuple[bytes, bytes]:
    """SHA-256 of the shares of the masking key and of the seed, as the sender says it."""
    return parcel[KEY_BYTES : KEY_BYTES + _DIGEST_BYTES], parcel[KEY_BYTES + _DIGEST_BYTES : _TEXT_AT]


def can_be_opened(parcel: bytes, key: bytes, roster: Roster, *, sender: int, receiver: int) -> bool:
    """Whether a parcel holds two shares, given its own private key.

    Returns:
        False also if the key is not the parcel's.
    """
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
        raise PeerError(f"shares of {roster.offers[sender].client!a} are others than their digests say")
    return pair


def _cipher(private: bytes, public: bytes, roster: Roster, sender: int) -> AESGCM:
    return AESGCM(agreed(private, public, b"shares", roster.digest, sender.to_bytes(4, "big")))
