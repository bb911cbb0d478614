"""``plait resume``: continue a simulated or served run that was stopped, killed or lost power."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.api.serving import load_serving
from plait.cli.options import Allow
from plait.cli.server import serve
from plait.cli.simulate import show, stopped_by_interrupt, told_how_to_go_on
from plait.progress import say


def resume(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    allow: Allow = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else.")] = False,
) -> None:
    """Continue a run from where it stopped; the resulting adapter is the same, bit for bit.

    Example: plait resume runs/first
    """
    from plait.api.resuming import settings_of
    from plait.api.running import go_on
    from plait.rounds.run_directory import RunDirectory

    directory = RunDirectory.find(run)
    serving = load_serving(directory.server)
    settings = settings_of(directory, allow or (), serving=serving)
    say(f"resuming {run}", quiet=json_output)
    with told_how_to_go_on(run):
        if serving:
            serve(directory, settings, serving, quiet=json_output)
        else:
            with stopped_by_interrupt(quiet=json_output) as stop:
                go_on(directory, settings, stop=stop, quiet=json_output)
        show(run, json_output=json_output)
