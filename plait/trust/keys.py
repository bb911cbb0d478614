"""Secret files, keys that follow from a secret, and a node's Ed25519 key (RFC 8032), which signs.

What a file lacks is a ConfigError with the remedy; one that cannot be read or written is a MachineError.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypeVar

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from plait.errors import ConfigError, MachineError
from plait.system.files import write_atomically

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
KEY_BYTES = 32
_SALT = b"plait secure aggregation 1"
MAX_FILE_BYTES = 65_536
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class NodeKey:
    """A private key, and its public half, 32 bytes."""

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
        """Read a key that `save` wrote (PEM, PKCS #8)."""
        return cls._of(read_pem_key(path, Ed25519PrivateKey, "Ed25519"))

    def save(self, path: Path) -> None:
        """Write the key to a new file of mode 0600."""
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


def read_pem_key(path: Path, kind: type[_Key], name: str) -> _Key:
    """The private key of this kind (by `name`) in a secret file: PEM, PKCS #8, without password."""
    try:
        key = serialization.load_pem_private_key(read_secret(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigError(f"'{path}' is not an {name} private key in PEM without password") from error
    if not isinstance(key, kind):
        raise ConfigError(f"'{path}' is not an {name} key")
    return key


def verify(public_key: bytes, signature: bytes, signed: bytes) -> bool:
    """Whether `signature` over `signed` was made with the private half of `public_key`; False for any other bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed)
    except (ValueError, InvalidSignature):
        return False
    return True


Vouch: TypeAlias = Callable[[str, bytes, bytes, bytes], bool]
"""Whether a node key is a client's, by the authority: of name, key (32 bytes), certificate (DER) and endorsement.

Certificate and endorsement (its signature) are empty in a simulation.
"""


@dataclass(frozen=True)
class NodeIdentity:
    """The identity of one client: a node key, and the certificate that proves to others that it is this client's."""

    public_key: bytes
    sign: Callable[[bytes], bytes]
    vouch: Vouch
    certificate: bytes = b""
    endorsement: bytes = b""


def derived(secret: bytes, *purpose: bytes) -> bytes:
    """A key of 32 bytes for one purpose."""
    info = b"".join(len(part).to_bytes(4, "big") + part for part in purpose)
    return HKDF(SHA256(), KEY_BYTES, salt=_SALT, info=info).derive(secret)


def write_secret(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file with mode 0600, fsync it and rename it to `path`, which must not exist."""
    if path.exists():
        raise ConfigError(f"'{path}' exists already: secrets are never overwritten")
    write_atomically(path, data)


def read_secret(path: Path) -> bytes:
    """The content of `path`, if only its owner can read it."""
    data = read_small(path)
    mode = path.stat().st_mode & 0o777
    if os.name != "nt" and mode & 0o077:
        raise ConfigError(
            f"'{path}' has mode {mode:04o}, so others can read it, expected 0600: chmod 600 {shlex.quote(str(path))}"
        )
    return data


def read_small(path: Path) -> bytes:
    """The content of `path`, at most 64 KiB."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"'{path}' is missing, expected a file that `plait provision` made") from error
    except OSError as error:
        raise MachineError(f"cannot read '{path}': {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"'{path}' is larger than {MAX_FILE_BYTES} bytes, expected a key or a certificate")
    return data
