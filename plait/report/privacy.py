"""The privacy of a run as tables: the card, and epsilon by round."""

from __future__ import annotations

from collections.abc import Mapping

from plait.report.table import Table
from plait.rounds.events import Audited
from plait.rounds.privacy_card import PrivacyCard, secure_aggregation_facts
from plait.rounds.run_view import RunView


def privacy_tables(view: RunView) -> tuple[Table, Table]:
    """The card and epsilon by round; both without rows for a run without differential privacy."""
    return privacy_card_table(view), epsilon_table(view)


def privacy_card_table(view: RunView) -> Table:
    """Who is protected from whom, and what is not covered."""
    card = view.privacy
    return Table(
        title="Differential privacy",
        headings=("", ""),
        rows=card.facts if card else (),
        note=card.warning if card else "",
        text_columns=(0, 1),
    )


def secure_aggregation_table(view: RunView) -> Table:
    """What the server learned under masks, and what masks do not hide; without rows for a run without."""
    return Table(
        title="Secure aggregation",
        headings=("", ""),
        rows=secure_aggregation_facts(view.sums),
        text_columns=(0, 1),
    )


def epsilon_table(view: RunView) -> Table:
    """Epsilon after every round."""
    if view.privacy and view.privacy.is_of_records:
        return _epsilon_of_records(view.privacy, view)
    return Table(
        title="Epsilon by round",
        headings=("round", "epsilon", "draws of noise", "next clip norm"),
        rows=tuple(
            (str(number), f"{spent.epsilon:.4g}", str(spent.charges), f"{spent.clip_norm or 0:.3g}")
            for number, spent in sorted(view.privacy_spent.items())
        ),
        note=f"At delta {view.privacy.promised.delta:g}, of the whole run so far." if view.privacy else "",
    )


def _epsilon_of_records(card: PrivacyCard, view: RunView) -> Table:
    told = "regions say of their clients" if card.is_of_tree else "accounts of the clients that have taken part say"
    return Table(
        title="Epsilon by round",
        headings=("round", "largest epsilon", "smallest", f"{view.peer}s"),
        rows=tuple(
            (
                str(number),
                f"{spent.epsilon:.4g}",
                f"{min(spent.by_client.values(), default=0):.4g}",
                str(len(spent.by_client)),
            )
            for number, spent in sorted(view.privacy_spent.items())
        ),
        note=f"At delta {card.promised.delta:g}, of the whole run so far, as the {told}.",
    )


def client_epsilon_table(view: RunView) -> Table:
    """What each client's records have cost; without rows where clients are protected as a whole."""
    newest = max(view.privacy_spent.values(), key=lambda spent: spent.round, default=None)
    return Table(
        title=f"Epsilon by {view.peer}",
        headings=(view.peer, "epsilon"),
        rows=tuple((name, f"{epsilon:.4g}") for name, epsilon in newest.by_client.items()) if newest else (),
        text_columns=(0,),
    )


def together_table(cards: Mapping[str, PrivacyCard]) -> Table:
    """What several runs on the same clients or records cost together.

    Args:
        cards: by run.
    """
    from plait.rounds.together import together

    found = together(cards)
    return Table(
        title="Together",
        headings=("run", "epsilon", "delta"),
        rows=(
            *((name, f"{card.epsilon:.4g}", f"{card.promised.delta:g}") for name, card in cards.items()),
            ("all of them", f"{found.epsilon:.4g}", f"{found.delta:g}"),
        ),
        note=f"On the same clients and data, in any order: {found.how}.",
    )


def membership_of_run(view: RunView) -> Table:
    """As `membership_table`, of what the ledger says."""
    return membership_table(view.audited)


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
