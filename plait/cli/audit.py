"""``plait audit``: what attacks on a finished run find out about its data."""

from pathlib import Path
from typing import Annotated, Any

import typer

from plait.adapters.peft_reading import load_peft_directory
from plait.api.received import UNUSED, admitted_settings
from plait.attacks.canary import Audit, proven_and_promised
from plait.cli.options import Allow
from plait.cli.output import RunOrNewest, print_json, print_tables, print_text, run_or_newest
from plait.config import RunConfig
from plait.data import as_dataset
from plait.errors import ConfigError
from plait.ledger.events import Audited
from plait.ledger.ledger import append_event, read_events
from plait.ledger.privacy import PrivacyCard
from plait.ledger.run_view import RunView
from plait.plugins import admit
from plait.report.summary import write_report
from plait.report.tables import membership_table, verdict
from plait.report.terminal import say, status
from plait.rounds.run_directory import RunDirectory
from plait.training.bases import quiet_libraries

_GROUP = "Tell groups apart, such as persons, by the column that the run held them out by; prove epsilon of a group."
_RECORD = "Record the figures in ledger, summary and report; no epsilon covers those on membership."

_PRINTED = {"adapter", "group", "members", "others", "attacks", "epsilon_bound"}


def audit(
    named: RunOrNewest = None,
    data: Annotated[
        str, typer.Option(help="A client's own data, for a run whose clients brought theirs; see plait simulate.")
    ] = "",
    columns: Annotated[str, typer.Option(help="Columns of --data that have other names; see plait simulate.")] = "",
    split: Annotated[str, typer.Option(help="Splits of --data; see plait simulate.")] = "",
    group: Annotated[str, typer.Option(metavar="COLUMN", help=_GROUP)] = "",
    sequences: Annotated[
        int, typer.Option(min=10, help="Most trained, and most held-out, sequences (or groups) to tell apart.")
    ] = 500,
    record: Annotated[bool, typer.Option("--record", help=_RECORD)] = False,
    allow: Allow = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Attack a finished run: tell trained sequences from held-out ones and, with --dp, detect canary clients.

    With --group, tell trained persons or other groups from held-out ones.

    Example: plait audit runs/first
    """
    run = run_or_newest(named, quiet=json_output)
    directory = RunDirectory.find(run)
    events = read_events(directory.ledger)
    if not RunView.after(events).finished:
        raise ConfigError(f"'{run}' is not finished; `plait resume {run}` continues it")
    settings = admitted_settings(directory, allow or (), without=(*UNUSED, "init-adapter"))
    _check(run, settings, data, group)
    with status("attacking", quiet=json_output) as update:
        from plait.attacks.membership import DELTA, attacks, sides_of  # brings torch along

        quiet_libraries()
        update("loading the run's base and data")
        own = as_dataset(data, columns=columns, split=split) if data else None
        base, sides = sides_of(settings, events, own, most=sequences, group=group)
        loaded = load_peft_directory(directory.adapter)
        update("telling what it was trained on from what was held out")
        card, batch_size = PrivacyCard.of(events), settings.batch_size
        delta = card.promised.delta if card else DELTA
        found, proven = (
            attacks(base, loaded, sides, batch_size=batch_size, delta=delta) if sides.members else ((), None)
        )
        promised = card.epsilon if card and card.promised.unit != "record" else None
        if not group:
            if settings.dp == "client":
                update("letting canary clients take part")
            proven, promised = proven_and_promised(settings, events)
    shown: dict[str, Any] = {"group": group, "canaries": proven.canaries if proven and not group else 0}
    if proven:
        shown |= {"epsilon_bound": proven.bound, "epsilon_most": proven.most}
    shown |= {"adapter": loaded.state.digest().hex(), "members": len(sides.members), "others": len(sides.others)}
    event = Audited(attacks=found, **shown)
    if record:
        append_event(directory.ledger, event)
        write_report(directory.path)
    _show(event, proven, promised, dp=settings.dp, json_output=json_output)


def _check(run: Path, settings: RunConfig, data: str, group: str) -> None:
    """Refuse a run that the attacks cannot compare, or data that are not its own."""
    if not settings.learned.is_plain:
        raise ConfigError(
            f"objective of '{run}' is '{settings.objective}', expected sft: the attacks compare the losses of sequences"
        )
    admit(data)
    if settings.data and data:
        raise ConfigError(f"data is '{data}', but the run has data of its own, '{settings.data}': leave --data out")
    if not (settings.data or data or (settings.dp != "off" and not group)):
        raise ConfigError(f"the clients of '{run}' brought their own data; give --data with that of one of them")


def _show(event: Audited, proven: Audit | None, promised: float | None, *, dp: str, json_output: bool) -> None:
    if json_output:
        figures = event.model_dump(mode="json", include=_PRINTED)
        more = {"epsilon_bound_most": event.epsilon_most, "canary_clients": event.canaries}
        print_json({**figures, **more, "epsilon_promised": promised, "delta": proven.delta if proven else None})
        return

    if event.attacks:
        print_tables([membership_table(event)])
        print_text(verdict(event.attacks))
    who = event.unit if event.group else "canary clients"
    if proven and promised:
        outcome = "PASS: consistent with" if proven.bound <= promised else "FAIL: more than"
        say(
            f"{outcome} the promised epsilon {promised:.3g} at delta {proven.delta:g}: {proven.canaries:,} {who} "
            f"show at least {proven.bound:.3g}, perfect guesses would show {proven.most:.3g}",
            quiet=False,
        )
    elif proven:
        say(
            f"the run promises no epsilon of {who}: {proven.canaries:,} show at least {proven.bound:.3g} at delta "
            f"{proven.delta:g}, perfect guesses would show {proven.most:.3g}",
            quiet=False,
        )
    elif dp == "record":
        say("canary clients prove nothing of single records: compare what is found with what is promised", quiet=False)
    elif dp == "off":
        say("no differential privacy: nothing bounds what other attacks find", quiet=False)
