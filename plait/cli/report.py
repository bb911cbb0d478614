"""``plait report``: tables, plots and a page from a run's ledger."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plait.cli.output import RunOrNewest, run_or_newest
from plait.cli.simulate import show
from plait.report.progress import status
from plait.report.summary import write_report
from plait.report.tables import report_tables
from plait.rounds.run_directory import RunDirectory
from plait.system.files import cannot_write, write_atomically

if TYPE_CHECKING:
    from plait.ledger.run_view import RunView


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
    path = run_or_newest(run, quiet=json_output)
    directory = RunDirectory.find(path)
    with status(f"writing the report of {path}", quiet=json_output):
        view = write_report(directory.path)
        if export:
            export_figures(view, directory.path, export)
    show(path, json_output=json_output, verbose=True)


def export_figures(view: RunView, run_directory: Path, into: Path) -> None:
    """Write every table of a report as CSV, named after its title, and copy the plots that `write_report` wrote.

    Args:
        into: the folder to write to; made if it is not there.

    Raises:
        MachineError: it cannot be written.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(into, error, doing="make") from error
    for table in report_tables(view):
        text = io.StringIO()
        csv.writer(text).writerows([table.headings, *table.rows])
        name = re.sub(r"\W+", "_", table.title.lower()).strip("_")
        write_atomically(into / f"{name}.csv", text.getvalue().encode(), exported=True)
    for plot in sorted(run_directory.glob("*.png")):
        write_atomically(into / plot.name, plot.read_bytes(), exported=True)
