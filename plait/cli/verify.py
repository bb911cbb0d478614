"""``plait verify``: whether a run's record is complete and true, also by recomputing rounds whose updates were kept."""

from typing import Annotated

import typer

from plait.cli.options import Allow
from plait.cli.output import RunOrNewest, print_json, print_text, run_or_newest
from plait.cli.privacy import verifies
from plait.errors import PeerError
from plait.ledger.ledger import read_events, torn_bytes
from plait.report.progress import status
from plait.rounds.audit import check_signatures
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
