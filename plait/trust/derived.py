"""Keys that follow from one secret, each for one purpose (HKDF, RFC 5869)."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_SALT = b"plait secure aggregation 1"


def derived(secret: bytes, *purpose: bytes) -> bytes:
    """A key of 32 bytes for one purpose."""
    info = b"".join(len(part).to_bytes(4, "big") + part for part in purpose)
    return HKDF(SHA256(), KEY_BYTES, salt=_SALT, info=info).derive(secret)
