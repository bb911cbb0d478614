"""What attacks on membership found, as a table."""

from __future__ import annotations

from plait.report.table import Table
from plait.rounds.events import Audited


def membership_table(audited: Audited | None) -> Table:
    """How well attacks tell trained sequences from held-out ones.

    Args:
        audited: what they found; None if nothing is known.
    """
    headings = ("score", "AUC", "trained ones found at 1 % false alarms")
    if audited is None or not audited.attacks:
        return Table(title="Membership", headings=headings, rows=())
    return Table(
        title=f"Membership: {audited.members:,} trained sequences against {audited.others:,} held-out ones",
        headings=headings,
        rows=tuple(
            (attack.name, f"{attack.auc:.3f} ± {attack.margin:.3f}", f"{attack.tpr:.1%}") for attack in audited.attacks
        ),
        note="0.500 is chance. The controls never saw the adapter: what they reach is how far held-out text differs "
        "from the rest. Computed from the data without noise, so no epsilon covers these figures.",
    )
