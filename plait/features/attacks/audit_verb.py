"""``plait audit``: what attacks on a finished run find out about its data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from plait.cli.newest import RunOrNewest, run_or_newest
from plait.cli.options import Allow
from plait.cli.output import print_json, print_tables, print_text
from plait.errors import ConfigError
from plait.plugins import admit
from plait.progress import say, status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.adapters import Json
    from plait.features.attacks.attack import Attacked
    from plait.features.attacks.membership import Exposed
    from plait.report.table import Table

# Nothing is trained, published or told.
_UNUSED = ("publish", "callbacks")


def audit(
    named: RunOrNewest = None,
    data: Annotated[
        str,
        typer.Option("--data", help="A client's own data, for a run whose clients brought theirs; see plait simulate."),
    ] = "",
    columns: Annotated[
        str, typer.Option("--columns", help="Columns of --data that have other names; see plait simulate.")
    ] = "",
    split: Annotated[str, typer.Option("--split", help="Splits of --data; see plait simulate.")] = "",
    canaries: Annotated[
        str,
        typer.Option(
            "--canaries",
            help="File of canaries: texts of one form, only some of them in the data, to see how well the adapter "
            "remembers those.",
        ),
    ] = "",
    sequences: Annotated[
        int, typer.Option("--sequences", min=10, help="Most trained, and most held-out, sequences to tell apart.")
    ] = 500,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Record the figures in the run: ledger, summary, report, adapter's card. Figures on membership are "
            "covered by no epsilon.",
        ),
    ] = False,
    allow: Allow = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Attack a finished run: tell trained sequences from held-out ones and, with --dp, detect canary clients.

    Example: plait audit runs/first
    """
    from plait.api.received import admitted_settings, keys_of_features
    from plait.report.membership import membership_table, verdict
    from plait.report.write import write_report
    from plait.rounds.ledger import append_event, read_events
    from plait.rounds.run_directory import RunDirectory
    from plait.rounds.run_view import RunView

    run = run_or_newest(named, quiet=json_output)
    directory = RunDirectory.find(run)
    if not RunView.after(read_events(directory.ledger)).finished:
        raise ConfigError(f"'{run}' is not finished, expected a finished run; `plait resume {run}` continues it")
    settings = admitted_settings(directory, allow or (), without=(*_UNUSED, *keys_of_features()))
    if not settings.learned.is_plain:
        raise ConfigError(
            f"objective of '{run}' is '{settings.objective}', expected sft: the attacks compare the losses of sequences"
        )
    admit(data)
    if settings.data and data:
        raise ConfigError(f"data is '{data}', but the run has data of its own, '{settings.data}': leave --data out")
    if not (settings.data or data or vars(settings).get("dp", "off") != "off"):
        raise ConfigError(f"the clients of '{run}' brought their own data; give --data with that of one of them")
    with status("loading libraries", quiet=json_output):
        from plait.features.attacks.attack import attack
        from plait.features.attacks.card import rewrite_card

    with status("attacking", quiet=json_output) as update:
        found = attack(
            directory,
            settings,
            data=data,
            columns=columns,
            split=split,
            canaries=canaries,
            sequences=sequences,
            progress=update,
        )
    if record:
        append_event(directory.ledger, found.event)
        write_report(directory.path)
        rewrite_card(directory, found.base)
    if json_output:
        print_json(_figures(found))
        return
    tables = [membership_table(found.event), *([_exposure_table(found.exposed)] if found.exposed else [])]
    print_tables(table for table in tables if table.rows)
    if found.event.attacks:
        print_text(verdict(found.event.attacks))
    unit = vars(settings).get("dp", "off")
    if (proven := found.audit) and (promised := found.promised):
        outcome = "PASS: consistent with" if proven.bound <= promised else "FAIL: more than"
        say(
            f"{outcome} the promised epsilon {promised:.3g} at delta {proven.delta:g}: {proven.canaries:,} canary "
            f"clients show at least {proven.bound:.3g}, perfect guesses would show {proven.most:.3g}",
            quiet=False,
        )
    elif unit == "record":
        say("canary clients prove nothing of single records: compare what is found with what is promised", quiet=False)
    elif unit == "off":
        say("no differential privacy: nothing bounds what other attacks find", quiet=False)


def _exposure_table(exposed: Sequence[Exposed]) -> Table:
    from plait.report.table import Table

    return Table(
        title="Exposure of canaries, in bits",
        headings=("times in the data", "canaries", "by the adapter", "by the base alone"),
        rows=tuple(
            (str(each.times), str(each.canaries), f"{each.adapter:.1f}", f"{each.base:.1f}") for each in exposed
        ),
        note="Each bit halves the guesses that an attacker who knows the form of a canary needs.",
    )


def _figures(found: Attacked) -> dict[str, Json]:
    event, proven = found.event, found.audit
    return {
        "adapter": event.adapter,
        "members": event.members,
        "others": event.others,
        "attacks": [each.model_dump(mode="json") for each in event.attacks],
        "exposure": [
            {"times": each.times, "canaries": each.canaries, "adapter": each.adapter, "base": each.base}
            for each in found.exposed
        ],
        "epsilon_bound": proven.bound if proven else None,
        "epsilon_bound_most": proven.most if proven else None,
        "epsilon_promised": found.promised,
        "delta": proven.delta if proven else None,
        "canary_clients": proven.canaries if proven else 0,
    }
