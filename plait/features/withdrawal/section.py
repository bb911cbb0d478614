"""The section of the report: who withdrew, and what became of the adapter."""

from __future__ import annotations

from plait.features.withdrawal.events import ClientWithdrawn, Withdrawn
from plait.report.table import Table
from plait.rounds.run_view import RunView


def withdrawal_table(view: RunView) -> Table:
    """Each client that withdrew; it was complete once it has a tombstone."""
    events = view.of_features
    asked = [each for each in events.get("client_withdrawn", ()) if isinstance(each, ClientWithdrawn)]
    done = {each.client: each for each in events.get("withdrawn", ()) if isinstance(each, Withdrawn)}
    rows = tuple((each.client, each.way, _became(done.get(each.client))) for each in asked)
    return Table(title="Withdrawn", headings=("client", "way", "adapter"), rows=rows, text_columns=(0, 1, 2))


def _became(tombstone: Withdrawn | None) -> str:
    if tombstone is None:
        return "not complete"
    if not tombstone.adapter:
        return "as it was"
    if tombstone.run:
        return f"{tombstone.adapter[:16]} of run {tombstone.run[:16]}"
    left = residual_in_words(tombstone)
    return f"{tombstone.adapter[:16]}, approximate{f': {left}' if left else ''}"


def residual_in_words(tombstone: Withdrawn) -> str:
    """What an attack on the client's data finds before and after; empty where it was not measured."""
    found = tombstone.residual
    if not found.keys() >= {"before", "before_margin", "after", "after_margin"}:
        return ""
    before, after = (f"{found[when]:.3f} ± {found[f'{when}_margin']:.3f}" for when in ("before", "after"))
    return f"an attack on its data finds {after} (AUC; 0.5 is chance), before {before}"
