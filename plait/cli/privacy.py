"""``plait verify`` and ``plait privacy``: whether a run's record is complete and true, and what its privacy cost.

Rounds whose updates were kept are computed again.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from plait.cli.options import Allow
from plait.cli.output import RunOrNewest, print_json, print_tables, print_text, run_or_newest
from plait.errors import ConfigError, PeerError
from plait.guarantees import epsilon_of
from plait.ledger.events import MASKED_CODEC, Event, RoundFinished, UpdateReceived, start_of
from plait.ledger.ledger import read_events, torn_bytes
from plait.ledger.privacy import (
    NoiseIntended,
    PrivacyCard,
    PrivacySpent,
    PrivacyStarted,
    promised_in,
    spent_by_round,
    together,
)
from plait.ledger.run_view import RunView
from plait.report.privacy import client_epsilon_table, together_table
from plait.report.table import card_table
from plait.report.tables import membership_table, tables_of_parts
from plait.report.terminal import status
from plait.rounds.audit import Verified, check_signatures
from plait.rounds.run_directory import RunDirectory, recorded_settings
from plait.rounds.run_state import damage_of
from plait.settings.traits import Trait

_NOT_THERE = "not in the ledger: this run's server may not look at single updates"


def verify(
    named: RunOrNewest = None,
    allow: Allow = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check a run's ledger, signatures, checkpoints and adapter; recompute its rounds if their updates were kept.

    Example: plait verify runs/first
    """
    run = run_or_newest(named, quiet=json_output)
    directory = RunDirectory.find(run)
    with status(f"checking {run}", quiet=json_output):
        events = read_events(directory.ledger)
        torn = torn_bytes(directory.ledger)
        settings = recorded_settings(directory, events)
        hidden = Trait.SINGLE_UPDATES in settings.missing
        signed = 0 if hidden else check_signatures(events)
        promised = verifies(events)
        found = [promised] if promised else []
        checkpoints = damage_of(directory.checkpoints)
        for name, damage in checkpoints.items():
            if damage:
                raise PeerError(f"checkpoint '{name}' of '{run}' is damaged: {damage}")
        from plait.api.recomputing import checked  # brings torch along

        own = checked(directory, events, settings, allow or ())
    if json_output:
        figures = {name: figure for each in (*own, *found) for name, figure in each.figures.items()}
        print_json({"events": len(events), "torn_bytes": torn, "signatures": signed, **figures, "ok": True})
        return
    cut = f"; a torn last line of {torn} bytes is ignored" if torn else ""
    none = _NOT_THERE if hidden else "none: clients had no keys"
    if settings.data and not hidden:
        none = "not applicable (simulation)"
    lines = (
        ("ledger", f"{len(events)} events, chain intact{cut}"),
        ("checkpoints", f"{', '.join(checkpoints) or 'none'} intact"),
        ("signatures", f"{signed} updates, each by its own client" if signed else none),
        *((each.name, each.text) for each in (*found, *own)),
    )
    for name, text in lines:
        print_text(f"{name:<12} {text}", indent=13)


def verifies(events: Sequence[Event]) -> Verified | None:
    """The differential privacy that a ledger records, checked; None for a run without."""
    promised, spent = promised_in(events), check_privacy(events)
    start = start_of(events)
    if (start.config.get("dp", "off") if start else "off") != (promised.unit if promised else "off"):
        raise PeerError("config.toml and ledger differ on differential privacy")
    if spent is None:
        return None
    rounds = sum(isinstance(event, RoundFinished) for event in events)
    cost = f"{spent.charges} draws of noise for {rounds} rounds"
    if spent.by_client:
        cost = f"the most that the accounts of {len(spent.by_client)} clients state of any of their records"
    more = {"dp_epsilon_by_client": dict(spent.by_client)} if spent.by_client else {"draws": spent.charges}
    return Verified(
        name="privacy",
        text=f"epsilon {spent.epsilon:.4g} at delta {spent.delta:g}: {cost}",
        figures={"dp_epsilon": spent.epsilon, "dp_delta": spent.delta, **more},
    )


def check_privacy(events: Sequence[Event]) -> PrivacySpent | None:
    """What a run has spent, if each round has paid for its noise and the ledger's figures follow from that, or None."""
    promised = promised_in(events)
    if promised is None:
        return None
    if promised.unit in ("record", "group"):
        return _check_records(promised, events)
    paid: set[tuple[int, str]] = set()
    epsilon = 0.0
    spent: PrivacySpent | None = None
    multiplier, guaranteed = promised.noise_multiplier or math.nan, promised.guaranteed or 0
    for event in events:
        if isinstance(event, NoiseIntended):
            paid.add((event.round, event.commitment))
            epsilon = epsilon_of(promised.delta, len(paid), multiplier, guaranteed=guaranteed)
            _check_epsilon(event, epsilon)
            if promised.epsilon is not None and epsilon > promised.epsilon * (1 + 1e-9):
                raise PeerError(f"epsilon of round {event.round} is {epsilon:g}, expected at most {promised.epsilon:g}")
        elif isinstance(event, PrivacySpent):
            spent = event
            if event.charges != len(paid):
                raise PeerError(f"round {event.round} states {event.charges} draws of noise, expected {len(paid)}")
            if event.delta != promised.delta:
                raise PeerError(f"delta of round {event.round} is {event.delta:g}, expected {promised.delta:g}")
            _check_epsilon(event, epsilon)
        elif isinstance(event, RoundFinished) and event.round not in {number for number, _ in paid}:
            raise PeerError(f"round {event.round} is finished without an intent to draw its noise")
    return spent


def _check_records(promised: PrivacyStarted, events: Sequence[Event]) -> PrivacySpent | None:
    """The same where every client keeps an account of its own records, of which it records the total."""
    totals: dict[str, float] = {}
    spent: PrivacySpent | None = None
    for event in events:
        if isinstance(event, UpdateReceived) and event.codec != MASKED_CODEC:
            what = f"epsilon of {event.client!r} in round {event.round}"
            if event.epsilon is None:
                raise PeerError(f"{what} is missing: every update must state it")
            if promised.epsilon is not None and event.epsilon > promised.epsilon * (1 + 1e-9):
                raise PeerError(f"{what} is {event.epsilon:g}, expected at most {promised.epsilon:g}")
            if event.epsilon < totals.get(event.client, 0.0):
                raise PeerError(
                    f"{what} is {event.epsilon:g}, expected no less than {totals[event.client]:g} as before"
                )
            totals[event.client] = event.epsilon
        elif isinstance(event, PrivacySpent):
            spent = event
            if event.delta != promised.delta:
                raise PeerError(f"delta of round {event.round} is {event.delta:g}, expected {promised.delta:g}")
            if dict(event.by_client) != totals:
                raise PeerError(f"epsilons of clients after round {event.round} are not those of their updates")
            # Under masks no client reports what it has spent: no more than the run's epsilon.
            _check_epsilon(event, max(totals.values(), default=promised.epsilon or math.inf))
        elif isinstance(event, RoundFinished) and (spent is None or spent.round != event.round):
            raise PeerError(f"round {event.round} is finished, but its cost is not recorded before")
    return spent


def _check_epsilon(event: NoiseIntended | PrivacySpent, expected: float) -> None:
    if not math.isclose(expected, event.epsilon, rel_tol=1e-9):
        raise PeerError(f"epsilon of round {event.round} is {event.epsilon:g}, expected {expected:g}")


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
    if run and len(run) > 1:
        _show_together(run, json_output=json_output)
        return
    directory = run_or_newest(run[0] if run else None, quiet=json_output)
    events = read_events(RunDirectory.find(directory).ledger)
    view = RunView.of(events)
    card, hiding = PrivacyCard.of(events), [each for each in view.cards.values() if each.hides_clients]
    if not hiding:
        text = "no guarantee: the server sees every update; --dp record, --dp client and --secure-aggregation give one"
        if json_output:
            print_json({"guarantee": None})
        else:
            print_text(text)
        return
    if json_output:
        not_covered = [text for each in hiding[:1] for name, text in each.facts if name == "Not covered"]
        if card is None:
            sums = [event.fields() for event in view.other_events.get("sum_unmasked", ())]
            print_json({"sums": sums, "not_covered": not_covered})
            return
        spent = {str(number): event.fields() for number, event in spent_by_round(view.other_events).items()}
        print_json({**card.promised.fields(), "spent_by_round": spent, "not_covered": not_covered})
        return
    tables = (
        *map(card_table, hiding),
        *tables_of_parts(view),
        *((client_epsilon_table(card),) if card else ()),
        membership_table(view.audited),
    )
    print_tables(table for table in tables if table.rows)


def _show_together(runs: list[Path], *, json_output: bool) -> None:
    cards: dict[str, PrivacyCard] = {}
    for run in runs:
        card = PrivacyCard.of(read_events(RunDirectory.find(run).ledger))
        if card is None:
            raise ConfigError(f"'{run}' has no differential privacy, so nothing bounds what the runs cost together")
        if str(run) in cards:
            raise ConfigError(f"'{run}' is given twice; give each run once")
        cards[str(run)] = card
    if json_output:
        found = together(cards)
        each = {name: {"epsilon": card.epsilon, "delta": card.promised.delta} for name, card in cards.items()}
        print_json({"runs": each, "epsilon": found.epsilon, "delta": found.delta, "how": found.how})
        return
    print_tables([together_table(cards)])
