"""``plait release``: judge a quarantined adapter again, or let an operator release it with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_text
from plait.progress import status


def release(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    anyway: Annotated[str, typer.Option("--anyway", help="Release it although conditions fail, for this reason.")] = "",
    kit: Annotated[Path | None, typer.Option("--kit", help="An operator's kit, whose key signs --anyway.")] = None,
) -> None:
    """Judge the conditions of a finished run again, as after an audit, and release its adapter if they hold.

    Example: plait release runs/first
    """
    from plait.errors import ConfigError
    from plait.features.gate.judge import judge
    from plait.features.gate.override import override
    from plait.report.write import write_report
    from plait.rounds.ledger import read_events
    from plait.rounds.recorded_settings import recorded_settings
    from plait.rounds.run_directory import RunDirectory
    from plait.rounds.run_view import RunView

    directory = RunDirectory.find(run)
    events = read_events(directory.ledger)
    conditions = str(vars(recorded_settings(directory, events))["release_if"])
    if not conditions:
        raise ConfigError(f"'{run}' has no release-if, so its adapter is not in quarantine")
    if not RunView.after(events).finished:
        raise ConfigError(f"'{run}' is not finished, expected a finished run; `plait resume {run}` continues it")
    if bool(anyway) != bool(kit):
        raise ConfigError("--anyway and --kit go together: a reason, and the operator's kit whose key signs it")
    if kit is not None:
        name = override(directory, conditions, reason=anyway, kit=kit)
        write_report(directory.path)
        print_text(f"released by {name}, which the ledger says")
        return
    with status("judging the adapter", quiet=False):
        found = judge(directory, conditions)
        write_report(directory.path)
    if not found.holds and directory.is_held_back:
        raise ConfigError(f"the adapter stays in quarantine: {found.in_words}")
    print_text(f"released: '{directory.adapter}'")
