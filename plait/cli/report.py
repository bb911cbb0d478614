"""``plait report``: tables, plots and a page from a run's ledger."""

from __future__ import annotations

from typing import Annotated

import typer

from plait.cli.newest import RunOrNewest, run_or_newest
from plait.cli.simulate import show


def report(
    run: RunOrNewest = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else.")] = False,
) -> None:
    """Show the losses, bytes and savings of a run; rewrite report.html, the plots and summary.json.

    Example: plait report runs/first
    """
    from plait.report.write import write_report
    from plait.rounds.recorded_settings import admit_recorded
    from plait.rounds.run_directory import RunDirectory

    path = run_or_newest(run, quiet=json_output)
    directory = RunDirectory.find(path)
    admit_recorded(directory)
    write_report(directory.path)
    show(path, json_output=json_output, verbose=True)
