"""``plait privacy``: what a run promises about privacy, and what it has spent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_json, print_tables
from plait.errors import ConfigError


def privacy(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show the privacy of a run: who is protected from whom, epsilon by round, and what is not covered.

    Example: plait privacy runs/first
    """
    from plait.report import client_epsilon_table, membership_table, privacy_tables, secure_aggregation_table
    from plait.rounds.ledger import read_events
    from plait.rounds.privacy_card import MASKED_NOT_COVERED
    from plait.rounds.run_directory import RunDirectory
    from plait.rounds.run_view import RunView

    view = RunView.of(read_events(RunDirectory.find(run).ledger))
    if view.privacy is None and not view.sums:
        raise ConfigError(
            f"'{run}' has neither differential privacy nor masked sums, expected a run with --dp record, "
            "--dp client or --secure-aggregation"
        )
    if json_output and view.privacy is None:
        print_json({"sums": [event.fields() for event in view.sums], "not_covered": list(MASKED_NOT_COVERED)})
        return
    if json_output and view.privacy is not None:
        spent = {str(number): event.fields() for number, event in view.privacy_spent.items()}
        print_json(
            {**view.privacy.promised.fields(), "spent_by_round": spent, "not_covered": list(view.privacy.not_covered)}
        )
        return
    tables = (
        *privacy_tables(view),
        client_epsilon_table(view),
        secure_aggregation_table(view),
        membership_table(view.audited),
    )
    print_tables(table for table in tables if table.rows)
