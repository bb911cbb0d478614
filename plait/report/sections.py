"""The tables of a report that only some runs have: each is imported where the ledger has what it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plait.on_demand import OnDemand
from plait.report.table import Table
from plait.rounds.run_view import RunView

_TABLES: OnDemand[Callable[[RunView], Table]] = OnDemand(
    {
        "membership": "plait.report.membership:membership_of_run",
    }
)
_HAS: Mapping[str, Callable[[RunView], bool]] = {
    "membership": lambda view: view.audited is not None,
}


def section(name: str, view: RunView) -> Table:
    """The table of this name; without rows where the run has none."""
    return _TABLES[name](view) if _HAS[name](view) else Table(title="", headings=(), rows=())


def sections(view: RunView) -> dict[str, Table]:
    """All of them."""
    return {name: section(name, view) for name in _TABLES}
