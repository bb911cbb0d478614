"""The secret key of a private run: what its noise is drawn from, and how a round's noise is bound to its updates.

Noise must be the same when a killed server continues with the same updates, and independent of all earlier draws for
other updates: two results with the same noise would give away the difference of what is below it. So a round's key is
HKDF(run key, round, digest of the accepted updates) (RFC 5869). With the run key the noise can be removed again. Knows
no update.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from plait.errors import ConfigError
from plait.trust.secret_file import read_secret, write_secret

_BYTES = 32


@dataclass(frozen=True)
class RunKey:
    """The key of one run.

    Attributes:
        secret: 32 bytes from the system's generator; never derived from a run's seed.
    """

    secret: bytes = field(repr=False)

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new key, durably in a file of mode 0600; the key of a run that was killed before its first event is kept.

        Raises:
            MachineError: the file cannot be written.
        """
        if path.exists():
            return cls.load(path)
        key = cls(secrets.token_bytes(_BYTES))
        write_secret(path, key.secret.hex().encode() + b"\n")
        return key

    @classmethod
    def load(cls, path: Path) -> Self:
        """The key in a file.

        Raises:
            ConfigError: it is missing, damaged, or readable by others.
            MachineError: it cannot be read.
        """
        if not path.exists():
            raise ConfigError(
                f"'{path}' is missing, expected the noise key of this run: without it the run can neither go on nor be "
                "recomputed; restore it, or begin a new run"
            )
        try:
            secret = bytes.fromhex(read_secret(path).decode("ascii").strip())
        except ValueError:
            secret = b""
        if len(secret) != _BYTES:
            raise ConfigError(f"'{path}' holds no noise key, expected {2 * _BYTES} hexadecimal digits: restore it")
        return cls(secret)

    @property
    def check(self) -> str:
        """What the ledger says of the key, so that it cannot be exchanged later; tells nothing of it."""
        return self._mac(b"key")

    def commitment(self, number: int, digest: bytes) -> str:
        """What the ledger says of the updates of a round.

        Without the key a guess of an update cannot be tested against it, as a plain digest would allow.
        """
        return self._mac(b"updates", number, digest)

    def for_round(self, number: int, digest: bytes) -> bytes:
        """The key of a round's noise, 32 bytes."""
        return derived(self.secret, _text(b"noise", number, digest))

    def _mac(self, *parts: bytes | int) -> str:
        return hmac.new(self.secret, _text(*parts), hashlib.sha256).hexdigest()


def derived(key: bytes, purpose: bytes) -> bytes:
    """Another key of 32 bytes, for one purpose."""
    return HKDF(SHA256(), _BYTES, salt=b"plait differential privacy 1", info=purpose).derive(key)


def _text(*parts: bytes | int) -> bytes:
    """The parts, so that no two lists of them are the same text."""
    encoded = (part.to_bytes(8, "little") if isinstance(part, int) else part for part in parts)
    return b"".join(len(part).to_bytes(8, "little") + part for part in encoded)
