"""``plait privacy``: what a run promises about privacy, and what it has spent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_json, print_tables
from plait.errors import ConfigError


def privacy(
    run: Annotated[list[Path], typer.Argument(help="Run directory; of several also what they cost together.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show the privacy of a run: who is protected from whom, epsilon by round, and what is not covered.

    Of several runs on the same clients, such as a run and the one that continues from it, show what they cost together.

    Example: plait privacy runs/first
    """
    if len(run) > 1:
        _show_together(run, json_output=json_output)
        return
    (directory,) = run
    from plait.report.privacy import client_epsilon_table, membership_table, privacy_tables, secure_aggregation_table
    from plait.rounds.ledger import read_events
    from plait.rounds.privacy_card import MASKED_NOT_COVERED
    from plait.rounds.run_directory import RunDirectory
    from plait.rounds.run_view import RunView

    view = RunView.of(read_events(RunDirectory.find(directory).ledger))
    if view.privacy is None and not view.sums:
        raise ConfigError(
            f"'{directory}' has neither differential privacy nor masked sums, expected a run with --dp record, "
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


def _show_together(runs: list[Path], *, json_output: bool) -> None:
    from plait.report.privacy import together_table
    from plait.rounds.ledger import read_events
    from plait.rounds.privacy_card import PrivacyCard
    from plait.rounds.run_directory import RunDirectory
    from plait.rounds.together import together

    cards: dict[str, PrivacyCard] = {}
    for run in runs:
        card = PrivacyCard.of(read_events(RunDirectory.find(run).ledger))
        if card is None:
            raise ConfigError(f"'{run}' has no differential privacy, so nothing bounds what the runs cost together")
        if str(run) in cards:
            raise ConfigError(f"'{run}' is given twice, expected each run once")
        cards[str(run)] = card
    if json_output:
        found = together(cards)
        each = {name: {"epsilon": card.epsilon, "delta": card.promised.delta} for name, card in cards.items()}
        print_json({"runs": each, "epsilon": found.epsilon, "delta": found.delta, "how": found.how})
        return
    print_tables([together_table(cards)])
