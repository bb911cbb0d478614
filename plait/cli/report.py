"""``plait report``: tables, plots and a page from a run's ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import RunOrNewest, run_or_newest
from plait.cli.simulate import show
from plait.progress import status


def report(
    run: RunOrNewest = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="Also write every table as CSV and every plot as PNG here.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else.")] = False,
) -> None:
    """Show the losses, bytes and savings of a run; rewrite report.html, the plots and summary.json.

    Example: plait report runs/first
    """
    from plait.rounds.run_directory import RunDirectory

    path = run_or_newest(run, quiet=json_output)
    directory = RunDirectory.find(path)
    with status(f"writing the report of {path}", quiet=json_output):
        from plait.report.write import export_figures, write_report

        view = write_report(directory.path)
        if export:
            export_figures(view, directory.path, export)
    show(path, json_output=json_output, verbose=True)
