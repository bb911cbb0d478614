"""Write the readable files of a run directory: ``summary.json``, ``report.html`` and the plots, all from the ledger."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

from plait.files import cannot_write, write_atomically
from plait.report.summary import summarise
from plait.rounds.ledger import read_events
from plait.rounds.run_view import RunView


def write_report(run_directory: Path) -> RunView:
    """Read ``ledger.jsonl`` and write the report beside it; every file is written atomically.

    Returns:
        The view that the report shows.

    Raises:
        PeerError: the ledger is missing, broken or invalid.
        MachineError: the directory cannot be written.
    """
    # Loading matplotlib takes a second, which reading a summary need not wait for.
    from plait.report.html import render_html
    from plait.report.plots import draw_plots, draw_svgs
    from plait.report.tables import shown_first
    from plait.report.theme import palette_css

    view = write_summary(run_directory)
    page = render_html(view, draw_svgs(view), palette_css(), shown=shown_first(run_directory))
    for name, png in draw_plots(view).items():
        write_atomically(run_directory / f"{name}.png", png)
    write_atomically(run_directory / "report.html", page.encode())
    return view


def export_figures(view: RunView, run_directory: Path, into: Path) -> None:
    """Write every table of a report as CSV, named after its title, and copy the plots that `write_report` wrote.

    Args:
        into: the folder to write to; made if it is not there.

    Raises:
        MachineError: it cannot be written.
    """
    from plait.report.tables import report_tables

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


def write_summary(run_directory: Path) -> RunView:
    """Write ``summary.json`` alone, in a moment; the arguments and errors are those of `write_report`."""
    view = RunView.of(read_events(run_directory / "ledger.jsonl"))
    summary = json.dumps(summarise(view), indent=2, allow_nan=False) + "\n"
    write_atomically(run_directory / "summary.json", summary.encode())
    return view
