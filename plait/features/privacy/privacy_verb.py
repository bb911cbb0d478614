"""``plait privacy``: what a run promises about privacy, and what it has spent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.newest import run_or_newest
from plait.cli.output import print_json, print_tables, print_text
from plait.errors import ConfigError


def privacy(
    run: Annotated[
        list[Path] | None,
        typer.Argument(help="Run directory, by default the newest in runs/; of several what they cost together."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show the privacy of a run: who is protected from whom, epsilon by round, and what is not covered.

    For several runs on the same clients, such as a run and its continuation, show their total cost.

    Example: plait privacy runs/first
    """
    from plait.features.privacy.card import PrivacyCard, spent_by_round
    from plait.features.privacy.tables import client_epsilon_table

    if run and len(run) > 1:
        _show_together(run, json_output=json_output)
        return
    directory = run_or_newest(run[0] if run else None, quiet=json_output)
    from plait.report.membership import membership_table
    from plait.report.tables import card_table, tables_of_features
    from plait.rounds.ledger import read_events
    from plait.rounds.run_directory import RunDirectory
    from plait.rounds.run_view import RunView

    events = read_events(RunDirectory.find(directory).ledger)
    view = RunView.of(events)
    card, hiding = PrivacyCard.of(events), [each for each in view.cards.values() if each.hides_clients]
    if not hiding:
        said = "no guarantee: the server sees every update; --dp record, --dp client and --secure-aggregation give one"
        if json_output:
            print_json({"guarantee": None})
        else:
            print_text(said)
        return
    if json_output:
        not_covered = [text for each in hiding[:1] for name, text in each.facts if name == "Not covered"]
        if card is None:
            sums = [event.fields() for event in view.of_features.get("sum_unmasked", ())]
            print_json({"sums": sums, "not_covered": not_covered})
            return
        spent = {str(number): event.fields() for number, event in spent_by_round(view.of_features).items()}
        print_json({**card.promised.fields(), "spent_by_round": spent, "not_covered": not_covered})
        return
    tables = (
        *map(card_table, hiding),
        *tables_of_features(view),
        *((client_epsilon_table(card),) if card else ()),
        membership_table(view.audited),
    )
    print_tables(table for table in tables if table.rows)


def _show_together(runs: list[Path], *, json_output: bool) -> None:
    from plait.features.privacy.card import PrivacyCard
    from plait.features.privacy.tables import together_table
    from plait.features.privacy.together import together
    from plait.rounds.ledger import read_events
    from plait.rounds.run_directory import RunDirectory

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
