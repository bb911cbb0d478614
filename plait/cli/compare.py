"""``plait compare``: losses and bytes of several runs side by side, with paired differences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_json, print_tables, print_text
from plait.report.progress import say, status
from plait.system.files import write_atomically


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="Run that the others are compared with; the first by default.")
    ] = None,
    page: Annotated[Path | None, typer.Option("--page", help="Write one self-contained HTML page.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print all figures as JSON and nothing else.")] = False,
) -> None:
    """Compare runs: held-out loss, bytes, and differences with 95 % intervals.

    Runs that differ only in the seed share one row, the mean over seeds.

    Example: plait compare runs/fedavg runs/flexlora --page compare.html
    """
    with status("reading the runs", quiet=json_output):
        from plait.studies.comparison import compare as compare_runs
        from plait.studies.comparison import comparison_tables

        comparison = compare_runs(*runs, baseline=baseline)
    if page is not None:
        write_atomically(page, comparison.page().encode(), exported=True)
    if json_output:
        print_json(comparison.to_json())
        return
    print_tables(comparison_tables(comparison))
    for note in comparison.notes:
        say(f"note: {note}", quiet=False)
    if page is not None:
        print_text(f"written  {page}")
