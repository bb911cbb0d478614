"""``plait resume``: continue a simulated or served run that was stopped, killed or lost power."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.progress import say
from plait.cli.server import serve
from plait.cli.serving import load_serving
from plait.cli.simulate import execute, finish, is_finished, is_reported, prepare, told_how_to_go_on
from plait.config import config_from_table, read_config_table
from plait.errors import ConfigError
from plait.plugins import admit


def resume(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else.")] = False,
) -> None:
    """Continue a run from where it stopped; the resulting adapter is the same, bit for bit.

    Example: plait resume runs/first
    """
    from plait.rounds.events import Reference
    from plait.rounds.ledger import read_events
    from plait.rounds.run_directory import RunDirectory

    directory = RunDirectory.find(run)
    settings = config_from_table(read_config_table(directory.config), where=str(directory.config))
    admit(*settings.plugins)
    trained = {event.kind for event in read_events(directory.ledger) if isinstance(event, Reference)}
    is_over = is_finished(directory) and trained >= set(settings.references)
    if is_over and is_reported(run):
        raise ConfigError(f"'{run}' is finished, there is nothing to resume; `plait report {run}` shows it")
    say(f"resuming {run}", quiet=json_output)
    settings = settings.model_copy(update={"out": str(run)})
    with told_how_to_go_on(run):
        if serving := load_serving(directory.server):
            serve(directory, settings, serving, quiet=json_output)
        else:
            execute(*prepare(settings, quiet=json_output), quiet=json_output)
        finish(run, json_output=json_output)
