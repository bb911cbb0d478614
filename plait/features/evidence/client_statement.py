"""A client's own statement of a run: what it agreed to, and what left it, signed by its node key.

The statement is a file of the client's, made from what its node recorded (`sent.py`); nothing of it travels with a run.
Simulated clients have no keys and make none.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from plait.adapters import Json
from plait.errors import ConfigError
from plait.features.evidence.envelope import Signer, enveloped, key_id, statement
from plait.features.evidence.sent import SentLines
from plait.rounds.ledger import canonical
from plait.trust.endorsement import Endorsement
from plait.trust.kit import ClientKit

KIND = "https://plait.dev/client-statement/v1"


def attested(kit: ClientKit, state: Path, *, run: str, about_data: str = "") -> tuple[str, bytes]:
    """A client's statement of one run.

    Args:
        run: the beginning of the run's id in its ledger; empty if the node took part in one alone.

    Returns:
        The run's id, and the signed statement.

    Raises:
        ConfigError: the node took part in no such run, or in several.
        PeerError: the record of what was sent is damaged.
        MachineError: it cannot be read.
    """
    lines = SentLines.of(state, kit.name).read()
    known = sorted({line["run"] for line in lines if line.get("run")})
    runs = [each for each in known if each.startswith(run)]
    if len(runs) != 1:
        named = ", ".join(each[:16] for each in known) or "none"
        raise ConfigError(f"run '{run}' is {len(runs)} of those that '{kit.name}' took part in ({named}), expected one")
    (run_id,) = runs
    nodes_runs = {line["run_id"] for line in lines if line.get("run") == run_id}
    own = [line for line in lines if line.get("run", run_id) == run_id and line["run_id"] in nodes_runs]
    endorsement = Endorsement.of(kit)
    predicate: dict[str, Json] = {
        "client": kit.name,
        "public_key": kit.node_key.public_bytes.hex(),
        "certificate": base64.b64encode(endorsement.certificate).decode(),
        "endorsement": base64.b64encode(endorsement.signature).decode(),
        "consent": own[-1]["consent"],
        "policy": own[-1]["policy"],
        "about_data": about_data,
        "record": hashlib.sha256(canonical(lines[-1])).hexdigest(),
        **_sent(own),
    }
    key = Ed25519PublicKey.from_public_bytes(kit.node_key.public_bytes)
    said = statement([{"name": "run", "digest": {"plaitRun": run_id}}], KIND, predicate)
    return run_id, enveloped(said, Signer(key_id(key), kit.node_key.sign))


def _sent(lines: Sequence[dict[str, Any]]) -> dict[str, Json]:
    return {
        "messages": len(lines),
        "bytes": sum(line["bytes"] for line in lines),
        "fields": sorted({name for line in lines for name in line["fields"]}),
        "updates": [line["signed"] for line in lines if "signed" in line],
    }
