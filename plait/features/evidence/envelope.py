"""DSSE envelopes: JSON in one form, and a signature over it. Knows nothing of what is signed.

DSSE v1 (https://github.com/secure-systems-lab/dsse): the signature covers type and payload. ECDSA signatures have the
smaller of both values of s, so that no other signature of the same key fits the same bytes by a change of sign.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from plait.adapters import Json
from plait.errors import PeerError
from plait.rounds.ledger import canonical

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256


@dataclass(frozen=True)
class Signer:
    """A key that signs.

    Attributes:
        key_id: SHA-256 of its public half (SubjectPublicKeyInfo), in hexadecimal.
    """

    key_id: str
    sign: Callable[[bytes], bytes]

    @classmethod
    def of(cls, key: ec.EllipticCurvePrivateKey) -> Signer:
        """With a P-256 key."""
        return cls(key_id(key.public_key()), lambda data: _sign(key, data))


def key_id(key: PublicKeyTypes) -> str:
    """SHA-256 of a public key, in hexadecimal."""
    return hashlib.sha256(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


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
        envelope = json.loads(data)
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise ValueError
        statement = cast("object", json.loads(base64.b64decode(envelope["payload"], validate=True)))
        if not isinstance(statement, dict) or not isinstance(statement["predicate"], dict):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise PeerError(f"{what} is cut off or no signed statement, expected the file as plait wrote it") from error
    return cast("dict[str, Any]", statement)


def statement(subject: list[Json], kind: str, predicate: dict[str, Json]) -> dict[str, Json]:
    """An in-toto statement, version 1."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "predicate": predicate,
        "predicateType": kind,
        "subject": subject,
    }


def _signed(payload: bytes) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return encode_dss_signature(r, min(s, _ORDER - s))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
