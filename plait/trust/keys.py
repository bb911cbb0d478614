"""A node's Ed25519 key (RFC 8032), with which it proves its identity and signs what it sends.

Knows nothing of the content signed, nor of TLS, whose keys belong to the authority.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from plait.errors import ConfigError
from plait.trust.secret_file import read_secret, write_secret

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


@dataclass(frozen=True)
class NodeKey:
    """A private key; only its public half is shown.

    Attributes:
        public_bytes: the public key, 32 bytes.
    """

    public_bytes: bytes
    _private: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def generate(cls) -> NodeKey:
        """A new key from the operating system's random generator."""
        return cls._of(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> NodeKey:
        """The key of 32 secret bytes; of a simulated client, whose key protects nothing."""
        return cls._of(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path) -> NodeKey:
        """Read a key that `save` wrote (PEM, PKCS #8).

        Raises:
            ConfigError: missing, readable by others, or not an Ed25519 private key.
            MachineError: cannot be read.
        """
        try:
            key = serialization.load_pem_private_key(read_secret(path), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
            raise ConfigError(
                f"'{path}' is not a private key in PEM without password, expected an Ed25519 one"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"'{path}' is a key of another kind, expected an Ed25519 key")
        return cls._of(key)

    def save(self, path: Path) -> None:
        """Write the key to a new file of mode 0600.

        Raises:
            ConfigError: `path` already exists.
            MachineError: cannot be written.
        """
        pem = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_secret(path, pem)

    def sign(self, data: bytes) -> bytes:
        """Signature over `data`, 64 bytes."""
        return self._private.sign(data)

    @classmethod
    def _of(cls, key: Ed25519PrivateKey) -> NodeKey:
        return cls(key.public_key().public_bytes_raw(), key)


def verify(public_key: bytes, signature: bytes, signed: bytes) -> bool:
    """Whether `signature` over `signed` was made with the private half of `public_key`; False for any other bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed)
    except (ValueError, InvalidSignature):
        return False
    return True
