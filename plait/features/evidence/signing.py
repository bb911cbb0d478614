"""Whose key signs a bundle: that of a server's kit, or, for a run without one, a key of the run's own directory."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from plait.adapters import Json
from plait.errors import ConfigError
from plait.features.evidence.envelope import Signer
from plait.rounds.run_directory import RunDirectory
from plait.trust.certificate import key_pem, new_key, read_key
from plait.trust.kit import ServerKit
from plait.trust.secret_file import write_secret

OWN_KEY = "evidence.key"


@dataclass(frozen=True)
class Signing:
    """A key that signs bundles, and what stands behind it.

    Attributes:
        key_file: in PEM.
        described: the public key, and the certificates of a kit.
        kit: of the server; None for a key of the run's own.
    """

    signer: Signer
    key_file: Path
    described: dict[str, Json]
    kit: Path | None = None

    @classmethod
    def of(cls, directory: RunDirectory, kit: Path | None) -> Signing:
        """The kit's key; without a kit the run's own, which is made at its first use.

        Raises:
            ConfigError: the kit is damaged, or a key is readable by others.
            MachineError: a file cannot be read or written.
        """
        if kit is not None:
            loaded = ServerKit.load(kit)
            certificates = {"certificate": loaded.tls.certificate, "authority": loaded.tls.authority}
            return cls._with(kit / "server.key", "kit", kit, **certificates)
        path = directory.path / OWN_KEY
        with suppress(ConfigError):  # it is there
            write_secret(path, key_pem(new_key()))
        return cls._with(path, "own", None, certificate=b"", authority=b"")

    @classmethod
    def _with(cls, path: Path, kind: str, kit: Path | None, *, certificate: bytes, authority: bytes) -> Signing:
        key = read_key(path)
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        described: dict[str, Json] = {
            "kind": kind,
            "key": base64.b64encode(public).decode(),
            "certificate": certificate.decode(),
            "authority": authority.decode(),
        }
        return cls(Signer.of(key), path, described, kit)
