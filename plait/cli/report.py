"""``plait report``, ``plait compare`` and ``plait evidence``: what finished runs show."""

import csv
import io
import re
from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import RunOrNewest, print_json, print_tables, print_text, run_or_newest
from plait.cli.simulate import show
from plait.evidence.bundle import bundle_of, page_of
from plait.evidence.envelope import Signer
from plait.ledger.run_view import RunView
from plait.report.summary import write_report
from plait.report.tables import report_tables
from plait.report.terminal import say, status
from plait.rounds.run_directory import RunDirectory
from plait.studies.comparison import compare as compare_runs
from plait.studies.comparison import comparison_tables
from plait.system.files import cannot_write, write_atomically


def report(
    run: RunOrNewest = None,
    export: Annotated[
        Path | None, typer.Option(help="Also write every table as CSV and every plot as PNG here.")
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
    """Write every table of a report as CSV, named after its title, and copy the plots that `write_report` wrote."""
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


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    baseline: Annotated[
        Path | None, typer.Option(help="Run that the others are compared with; the first by default.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write one self-contained HTML page.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print all figures as JSON and nothing else.")] = False,
) -> None:
    """Compare runs: held-out loss, bytes, and differences with 95 % intervals.

    Runs that differ only in the seed share one row, the mean over seeds.

    Example: plait compare runs/fedavg runs/flexlora --page compare.html
    """
    with status("reading the runs", quiet=json_output):
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


def evidence(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    out: Annotated[Path | None, typer.Option(help="File to write; by default RUN.evidence.json.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page to read.")] = None,
    kit: Annotated[
        Path | None,
        typer.Option(help="The server's start-up kit, whose key signs; otherwise a key of the run's own does."),
    ] = None,
    statement: Annotated[
        list[Path] | None,
        typer.Option(help="A client's own statement, from `plait evidence --attest`; may be repeated."),
    ] = None,
    base_licence: Annotated[str, typer.Option(help="The base's licence, such as Apache-2.0.")] = "",
) -> None:
    """Write a signed bundle about a finished run, which docs/evidence/verify.py checks without plait.

    Example: plait evidence runs/first --kit kit/server --statement alice.statement.json
    """
    directory = RunDirectory.find(run)
    signer = Signer.of_run(directory, kit)
    with status("collecting the evidence", quiet=False):
        stated, data = bundle_of(directory, signer, statements=statement or (), base_licence=base_licence)
    path = out or Path(f"{directory.path.resolve()}.evidence.json")
    write_atomically(path, data, exported=True)
    if html:
        write_atomically(html, page_of(stated).encode(), exported=True)
    own = "a key of the run's own, which identifies no one: give --kit to sign with the server's"
    who = "the server's key" if kit else own
    print_text(f"'{path}' has {len(data):,} bytes, signed with {who}")
