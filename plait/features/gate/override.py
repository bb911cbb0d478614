"""An operator's release against the conditions, signed with the key of the operator's own kit."""

from __future__ import annotations

from pathlib import Path

from plait.errors import ConfigError
from plait.features.gate.events import ReleasedAnyway
from plait.features.gate.judge import verdict
from plait.features.gate.release import release
from plait.rounds.ledger import append_event, canonical, read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_view import RunView
from plait.trust.kit import operator_signing

_MOST_CHARACTERS = 1000


def override(directory: RunDirectory, conditions: str, *, reason: str, kit: Path) -> str:
    """Release an adapter in an operator's name.

    Returns:
        The operator's name.

    Raises:
        ConfigError: the kit is not an operator's, or the reason is too long, or the adapter is not in quarantine.
        MachineError: something cannot be written.
    """
    sign = operator_signing(kit)
    if len(reason) > _MOST_CHARACTERS:
        raise ConfigError(f"the reason has {len(reason)} characters, expected at most {_MOST_CHARACTERS}")
    if not directory.is_held_back:
        raise ConfigError(f"the adapter of '{directory.path}' is not in quarantine")
    events = read_events(directory.ledger)
    found = verdict(conditions, events)
    view = RunView.of(events)
    run, adapter = view.start.run, view.end.adapter if view.end else ""
    failed = (*found.failed, *found.unmeasured)
    by = sign(signed(run, adapter, reason, failed))
    append_event(
        directory.ledger, ReleasedAnyway.model_validate({"adapter": adapter, "reason": reason, "failed": failed, **by})
    )
    release(directory)
    return by["by"]


def signed(run: str, adapter: str, reason: str, failed: tuple[str, ...]) -> bytes:
    """What an operator signs."""
    said = {"adapter": adapter, "failed": failed, "reason": reason, "release": "anyway", "run": run}
    return canonical(said)
