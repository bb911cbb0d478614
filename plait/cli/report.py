"""``plait report``: tables, plots and a page from a run's ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.simulate import show


def report(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else.")] = False,
) -> None:
    """Show the losses, bytes and savings of a run; rewrite report.html, the plots and summary.json.

    Example: plait report runs/first
    """
    from plait.report.write import write_report
    from plait.rounds.recorded_settings import admit_recorded
    from plait.rounds.run_directory import RunDirectory

    admit_recorded(RunDirectory.find(run))
    write_report(RunDirectory.find(run).path)
    show(run, json_output=json_output)
