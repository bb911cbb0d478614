"""An operator's release against the conditions is in the evidence, and no other signature passes for it."""

from __future__ import annotations

import base64
import copy
import json
import zlib
from types import ModuleType

import pytest

from plait.features.gate.override import signed as said
from plait.rounds.ledger import canonical
from plait.trust.certificate import read_certificate, read_key
from tests.features.evidence.conftest import *  # noqa: F403 (fixtures)
from tests.features.evidence.conftest import Signed


@pytest.mark.slow
def test_a_release_without_the_right_to_it_is_refused(signed: Signed, verifier: ModuleType, refusal) -> None:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    statement = signed.statement
    lines = verifier.ledger_of(statement["predicate"]["ledger"])
    run, adapter = lines[0]["run"], lines[-1]["adapter"]

    def bundle(role: str, name: str, reason: str = "board 12") -> bytes:
        folder = signed.kits / f"{role}s" / name
        signature = read_key(folder / f"{role}.key").sign(said(run, adapter, "board 12", ()), ec.ECDSA(hashes.SHA256()))
        pem = read_certificate(folder / f"{role}.crt").public_bytes(serialization.Encoding.PEM).decode()
        event = {"event": "released_anyway", "adapter": adapter, "by": name, "reason": reason, "failed": [],
                 "certificate": pem, "signature": signature.hex(), "seq": len(lines), "time": 1.0,
                 "prev": lines[-1]["hash"]}  # fmt: skip
        others = [*lines, {**event, "hash": verifier._sha256(canonical(event))}]
        predicate = copy.deepcopy(statement["predicate"])
        packed = zlib.compress(b"".join(canonical(line) + b"\n" for line in others))
        predicate |= {"ledger": base64.b64encode(packed).decode(), "figures": verifier.figures(others)}
        return signed.signed_again(statement | {"predicate": predicate})

    assert refusal(bundle("operator", "olga")) == ""
    assert refusal(bundle("operator", "olga", reason="board 13"))
    assert "is no operator's" in refusal(bundle("client", "ada"))
    assert json.loads(bundle("operator", "olga"))
