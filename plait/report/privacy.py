"""What the report and the verbs show of differential privacy, and of clients that withdrew."""

from collections.abc import Mapping

from plait.ledger.privacy import (
    ClientWithdrawn,
    PrivacyCard,
    PrivacySpent,
    Withdrawn,
    promised_in,
    spent_by_round,
    together,
)
from plait.ledger.run_view import RunView
from plait.report.table import Table
from plait.system.text import Json


def figures_of(view: RunView) -> Mapping[str, Json]:
    """For the summary of a run."""
    card = next((each for each in view.cards.values() if isinstance(each, PrivacyCard)), None)
    if card is None:
        return {}
    known = spent_by_round(view.other_events)
    spent = {0: 0.0, **{number: each.epsilon for number, each in known.items() if each.is_known}}
    return {
        "dp_unit": card.promised.unit,
        "dp_epsilon": card.epsilon,
        "dp_delta": card.promised.delta,
        "dp_epsilon_by_round": [spent.get(number) for number in range(max(spent) + 1)],
    }


def epsilon_table(view: RunView) -> Table:
    """Epsilon after every round; of records, by the accounts of the clients that have taken part."""
    promised, spent = promised_in(view.other_events.get("privacy_started", ())), spent_by_round(view.other_events)
    # Under masks no client reports what its records have cost.
    spent = {number: each for number, each in spent.items() if each.is_known}
    if promised and promised.unit in ("record", "group"):
        headings, source = (
            ("largest epsilon", "smallest", "clients"),
            ", by the accounts of the clients that have taken part",
        )
    else:
        headings, source = ("epsilon", "draws of noise", "next clip norm"), ""

    def row(each: PrivacySpent) -> tuple[str, str]:
        if source:
            return f"{min(each.by_client.values(), default=0):.4g}", str(len(each.by_client))
        return str(each.charges), f"{each.clip_norm or 0:.3g}"

    return Table(
        title="Epsilon by round",
        headings=("round", *headings),
        rows=tuple((str(number), f"{each.epsilon:.4g}", *row(each)) for number, each in sorted(spent.items())),
        note=f"At delta {promised.delta:g}, of the whole run so far{source}." if promised else "",
    )


def client_epsilon_table(card: PrivacyCard) -> Table:
    """What each client's records have cost; without rows where clients are protected as a whole."""
    return Table(
        title="Epsilon by client",
        headings=("client", "epsilon"),
        rows=tuple((name, f"{epsilon:.4g}") for name, epsilon in card.spent.by_client.items()) if card.spent else (),
        text_columns=(0,),
    )


def together_table(cards: Mapping[str, PrivacyCard]) -> Table:
    """What several runs on the same clients or records cost together."""
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


def withdrawal_table(view: RunView) -> Table:
    """Each client that withdrew; it was complete once it has a tombstone."""
    events = view.other_events
    asked = [each for each in events.get("client_withdrawn", ()) if isinstance(each, ClientWithdrawn)]
    done = {each.client: each for each in events.get("withdrawn", ()) if isinstance(each, Withdrawn)}
    rows = tuple((each.client, each.way, _became(done.get(each.client))) for each in asked)
    return Table(title="Withdrawn", headings=("client", "way", "adapter"), rows=rows, text_columns=(0, 1, 2))


def _became(tombstone: Withdrawn | None) -> str:
    if tombstone is None:
        return "not complete"
    return f"{tombstone.adapter[:16]} of run {tombstone.run[:16]}" if tombstone.adapter else "as it was"
