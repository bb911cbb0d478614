"""DSSE envelopes, version 1 (https://github.com/secure-systems-lab/dsse), and whose key signs a bundle.

A bundle is signed by the key of a server's kit, or by one of the run's own directory. ECDSA signatures have the smaller
of both values of s, so that no other signature of the same key fits the same bytes by a change of sign.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from plait.errors import ConfigError, PeerError
from plait.ledger.ledger import canonical
from plait.rounds.run_directory import RunDirectory
from plait.system.text import Json, read_json
from plait.trust.keys import key_der, key_digest, key_pem, new_key, read_key, write_secret
from plait.trust.kit import ServerKit

PAYLOAD_TYPE = "application/vnd.in-toto+json"
OWN_KEY = "evidence.key"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256

STATEMENT = "https://plait.dev/client-statement/v2"
"""Type of a client's own statement."""


@dataclass(frozen=True)
class Signer:
    """A key that signs."""

    key_id: str  # SHA-256 of its public half (SubjectPublicKeyInfo), in hexadecimal
    sign: Callable[[bytes], bytes]
    # what stands behind it: the public key, and the certificates of a kit
    described: Mapping[str, Json] = field(default_factory=dict[str, Json])

    @classmethod
    def of(
        cls, key: ec.EllipticCurvePrivateKey, *, kind: str = "own", certificate: str = "", authority: str = ""
    ) -> Self:
        """With a P-256 key."""
        shown = base64.b64encode(key_der(key.public_key())).decode()
        described = {"kind": kind, "key": shown, "certificate": certificate, "authority": authority}
        return cls(key_digest(key.public_key()).hex(), lambda data: _sign(key, data), described)

    @classmethod
    def of_run(cls, directory: RunDirectory, kit: Path | None) -> Self:
        """With the kit's key; without a kit the run's own, which is made at its first use.

        Raises:
            ConfigError: the kit is damaged, or a key is readable by others.
            MachineError: a file cannot be read or written.
        """
        if kit is not None:
            tls = ServerKit.load(kit).tls
            certificate, authority = tls.certificate.decode(), tls.authority.decode()
            return cls.of(read_key(kit / "server.key"), kind="kit", certificate=certificate, authority=authority)
        path = directory.path / OWN_KEY
        with suppress(ConfigError):  # it is there
            write_secret(path, key_pem(new_key()))
        return cls.of(read_key(path))


def enveloped(statement: object, signer: Signer) -> bytes:
    """A signed statement, in JSON."""
    payload = canonical(statement)
    signature = {"keyid": signer.key_id, "sig": _text(signer.sign(_signed(payload)))}
    return canonical({"payload": _text(payload), "payloadType": PAYLOAD_TYPE, "signatures": [signature]}) + b"\n"


def opened(data: bytes, *, what: str) -> dict[str, Any]:
    """The statement in an envelope; its signature is not checked.

    Raises:
        PeerError: it is not an envelope of this form.
    """
    try:
        envelope = cast("dict[str, Any]", read_json(data))
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise ValueError
        statement = cast("dict[str, Any]", read_json(base64.b64decode(envelope["payload"], validate=True)))
        if not isinstance(statement["predicate"], dict):
            raise ValueError
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise PeerError(f"{what} is truncated or no signed statement; give the file as plait wrote it") from error
    return statement


def statement(subject: list[Json], kind: str, predicate: dict[str, Json]) -> dict[str, Json]:
    """An in-toto statement, version 1."""
    form = "https://in-toto.io/Statement/v1"
    return {"_type": form, "predicate": predicate, "predicateType": kind, "subject": subject}


def _signed(payload: bytes) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return encode_dss_signature(r, min(s, _ORDER - s))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
