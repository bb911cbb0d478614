"""``plait resume``: continue a simulated or served run that was stopped, killed or lost power."""

from __future__ import annotations

from typing import Annotated

import typer

from plait.api.resuming import settings_of
from plait.api.running import go_on
from plait.api.serving import load_serving
from plait.cli.options import Allow
from plait.cli.output import RunOrNewest, run_or_newest
from plait.cli.simulate import Verbose, show, stopped_by_interrupt, told_how_to_go_on
from plait.cli.verbs import SERVE_AGAIN
from plait.report.progress import say
from plait.rounds.run_directory import RunDirectory


def resume(
    run: RunOrNewest = None,
    allow: Allow = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else.")] = False,
    verbose: Verbose = False,
) -> None:
    """Continue a run from where it stopped; the resulting adapter is the same, bit for bit.

    Example: plait resume runs/first
    """
    path = run_or_newest(run, quiet=json_output)
    directory = RunDirectory.find(path)
    serving = load_serving(directory.server)
    settings = settings_of(directory, allow or (), serving=serving)
    say(f"resuming {path}", quiet=json_output)
    with told_how_to_go_on(settings, serving):
        if serving:
            SERVE_AGAIN.load()(directory, settings, serving, quiet=json_output)
        else:
            with stopped_by_interrupt(quiet=json_output) as stop:
                go_on(directory, settings, stop=stop, quiet=json_output)
        show(path, json_output=json_output, verbose=verbose)
