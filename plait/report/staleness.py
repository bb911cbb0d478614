"""The table of an asynchronous run: how old each client's updates were, and how much they counted.

Knows nothing of how weights are made (buffer.py).
"""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean

from plait.ledger.events import UpdateReceived
from plait.ledger.run_view import RunView
from plait.report.table import Table
from plait.report.wording import count_text, percent_text

_MOST_CLIENTS = 250


def staleness_table(view: RunView) -> Table:
    """Per client: updates, their staleness, and their part of the weights of all updates."""
    updates = [update for update in view.updates.values() if update.fold is not None]
    by_client: defaultdict[str, list[UpdateReceived]] = defaultdict(list)
    for update in updates:
        by_client[update.client].append(update)
    # Not fold by fold: a fold moves the further, the more the updates in it weigh.
    weight = sum(update.weight or 0.0 for update in updates)

    def row(client: str) -> tuple[str, ...]:
        own = by_client[client]
        ages = [update.staleness or 0 for update in own]
        part = sum(update.weight or 0.0 for update in own) / weight
        return client, count_text(len(own)), f"{fmean(ages):.1f}", str(max(ages)), percent_text(part)

    names = sorted(by_client, key=lambda client: (-len(by_client[client]), client))[:_MOST_CLIENTS]
    more = len(by_client) - len(names)
    return Table(
        title="Staleness",
        headings=("client", "updates", "mean staleness", "largest", "part of the weight"),
        rows=tuple(map(row, names)),
        note="Staleness is the number of rounds that ended while a client trained. Weights account for staleness and "
        "for how often a client came; with --weighting examples, also for examples."
        + (f" Without {more} clients with fewer updates." if more else ""),
    )
