"""What attacks on membership found, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from plait.report.table import Table
from plait.rounds.events import Audited, MembershipAttack

_CONTROL = "control: "


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


def verdict(attacks: Sequence[MembershipAttack]) -> str:
    """Whether the adapter gives members away: an attack on it is surely better than chance, and than every control."""
    controls = [each.auc for each in attacks if each.name.startswith(_CONTROL)]
    telling = [each for each in attacks if not each.name.startswith(_CONTROL) and each.auc - each.margin > 0.5]
    best = max(telling, key=lambda each: each.auc, default=None)
    if best is None or best.auc <= max(controls, default=0.5):
        return "No leak found: no attack on the adapter is surely better than chance and than the base alone."
    return (
        f"This adapter gives members away: '{best.name}' finds {best.tpr:.1%} of the trained sequences at 1 % false "
        "alarms. Train fewer steps, or with --dp record."
    )
