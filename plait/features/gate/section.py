"""The section of the report: what was decided about the adapter's release, in order."""

from __future__ import annotations

from plait.features.gate.events import Quarantined, Released, ReleasedAnyway
from plait.report.table import Table
from plait.rounds.events import Event
from plait.rounds.run_view import RunView


def release_table(view: RunView) -> Table:
    """Each verdict, and why."""
    verdicts = sorted(
        (event for kind in view.of_features.values() for event in kind if _is_verdict(event)), key=lambda e: e.seq
    )
    rows = tuple(_row(event) for event in verdicts)
    return Table(title="Release", headings=("verdict", "why"), rows=rows, text_columns=(0, 1))


def _is_verdict(event: Event) -> bool:
    return isinstance(event, Quarantined | Released | ReleasedAnyway)


def _row(event: Event) -> tuple[str, str]:
    match event:
        case Quarantined():
            return "in quarantine", "; ".join((*event.failed, *event.unmeasured))
        case ReleasedAnyway():
            return f"released by {event.by}", f"{event.reason} (although {'; '.join(event.failed)})"
        case Released():
            return "released", event.conditions
        case _:
            return event.event, ""
