"""An operator's release against the conditions, signed with the key of the operator's own kit."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from plait.errors import ConfigError
from plait.features.gate.events import ReleasedAnyway
from plait.features.gate.judge import record, verdict
from plait.rounds.ledger import read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_view import RunView
from plait.trust.certificate import read_key
from plait.trust.kit import StaffKit
from plait.trust.roles import Role

_MOST_CHARACTERS = 1000


def override(directory: RunDirectory, conditions: str, *, reason: str, kit: Path) -> str:
    """Release an adapter in an operator's name.

    Returns:
        The operator's name.

    Raises:
        ConfigError: the kit is not an operator's, or the reason is too long, or the adapter is not in quarantine.
        MachineError: something cannot be written.
    """
    loaded = StaffKit.load(kit)
    if loaded.role is not Role.OPERATOR:
        raise ConfigError(f"kit '{kit}' is {loaded.role.of}'s, expected an operator's")
    if len(reason) > _MOST_CHARACTERS:
        raise ConfigError(f"the reason has {len(reason)} characters, expected at most {_MOST_CHARACTERS}")
    if not directory.is_held_back:
        raise ConfigError(f"the adapter of '{directory.path}' is not in quarantine")
    events = read_events(directory.ledger)
    found = verdict(conditions, events)
    view = RunView.of(events)
    run, adapter = view.start.run, view.end.adapter if view.end else ""
    failed = (*found.failed, *found.unmeasured)
    signature = read_key(kit / "operator.key").sign(signed(run, adapter, reason, failed), ec.ECDSA(hashes.SHA256()))
    record(
        directory,
        ReleasedAnyway(
            adapter=adapter,
            by=loaded.name,
            reason=reason,
            failed=failed,
            certificate=loaded.tls.certificate.decode(),
            signature=signature.hex(),
        ),
    )
    directory.release()
    return loaded.name


def signed(run: str, adapter: str, reason: str, failed: tuple[str, ...]) -> bytes:
    """What an operator signs."""
    said = {"adapter": adapter, "failed": failed, "reason": reason, "release": "anyway", "run": run}
    return json.dumps(said, separators=(",", ":"), sort_keys=True, ensure_ascii=True).encode()
