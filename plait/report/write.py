"""Write the readable files of a run directory: ``summary.json``, ``report.html`` and the plots, all from the ledger."""

from __future__ import annotations

import json
from pathlib import Path

from plait.files import write_atomically
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


def write_summary(run_directory: Path) -> RunView:
    """Write ``summary.json`` alone, in a moment; the arguments and errors are those of `write_report`."""
    view = RunView.of(read_events(run_directory / "ledger.jsonl"))
    summary = json.dumps(summarise(view), indent=2, allow_nan=False) + "\n"
    write_atomically(run_directory / "summary.json", summary.encode())
    return view
