"""What the privacy of a run has cost, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plait.features.privacy.card import PrivacyCard, spent_by_round
from plait.features.privacy.events import promised_in
from plait.report.table import Table
from plait.rounds.events import Event
from plait.rounds.run_view import RunView


def epsilon_table(view: RunView) -> Table:
    """Epsilon after every round."""
    events = view.of_features
    promised, spent = promised_in(events.get("privacy_started", ())), spent_by_round(events)
    if promised and promised.unit == "record":
        return _epsilon_of_records(PrivacyCard(promised), events)
    return Table(
        title="Epsilon by round",
        headings=("round", "epsilon", "draws of noise", "next clip norm"),
        rows=tuple(
            (str(number), f"{each.epsilon:.4g}", str(each.charges), f"{each.clip_norm or 0:.3g}")
            for number, each in sorted(spent.items())
        ),
        note=f"At delta {promised.delta:g}, of the whole run so far." if promised else "",
    )


def _epsilon_of_records(card: PrivacyCard, events: Mapping[str, Sequence[Event]]) -> Table:
    told = "regions say of their clients" if card.is_of_tree else "accounts of the clients that have taken part say"
    return Table(
        title="Epsilon by round",
        headings=("round", "largest epsilon", "smallest", f"{card.peer}s"),
        rows=tuple(
            (
                str(number),
                f"{spent.epsilon:.4g}",
                f"{min(spent.by_client.values(), default=0):.4g}",
                str(len(spent.by_client)),
            )
            for number, spent in sorted(spent_by_round(events).items())
        ),
        note=f"At delta {card.promised.delta:g}, of the whole run so far, as the {told}.",
    )


def client_epsilon_table(card: PrivacyCard) -> Table:
    """What each client's records have cost; without rows where clients are protected as a whole."""
    return Table(
        title=f"Epsilon by {card.peer}",
        headings=(card.peer, "epsilon"),
        rows=tuple((name, f"{epsilon:.4g}") for name, epsilon in card.spent.by_client.items()) if card.spent else (),
        text_columns=(0,),
    )


def together_table(cards: Mapping[str, PrivacyCard]) -> Table:
    """What several runs on the same clients or records cost together."""
    from plait.features.privacy.together import together

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
