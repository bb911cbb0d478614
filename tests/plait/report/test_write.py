from __future__ import annotations

import csv
import json

import pytest

from plait.cli.report import export_figures
from plait.errors import PeerError
from plait.report.summary import summarise, write_report

PLOTS = {
    "loss_by_round.png",
    "loss_by_bytes.png",
    "clients.png",
}


@pytest.mark.slow
def test_a_run_directory_gets_summary_page_and_plots(small_run, write_ledger) -> None:
    directory = write_ledger(small_run)
    view = write_report(directory)
    assert {path.name for path in directory.iterdir()} == {"ledger.jsonl", "summary.json", "report.html", *PLOTS}
    assert json.loads((directory / "summary.json").read_text()) == summarise(view)
    assert all((directory / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for name in PLOTS)
    page = (directory / "report.html").read_text()
    assert page.count("<svg ") == 2 * len(PLOTS)


def test_a_ledger_that_was_changed_writes_nothing(small_run, write_ledger) -> None:
    directory = write_ledger(small_run)
    ledger = directory / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"loss":3.5', b'"loss":2.5'))
    with pytest.raises(PeerError, match="hash chain"):
        write_report(directory)
    assert {path.name for path in directory.iterdir()} == {"ledger.jsonl"}


@pytest.mark.slow
def test_every_table_and_plot_is_exported(small_run, write_ledger, tmp_path) -> None:
    directory = write_ledger(small_run)
    export_figures(write_report(directory), directory, tmp_path / "figures")
    assert {path.name for path in (tmp_path / "figures").glob("*.png")} == PLOTS
    with (tmp_path / "figures/held_out_loss_by_round.csv").open(newline="") as file:
        headings, *rows = csv.reader(file)
    assert headings[:2] == ["round", "loss"]
    assert [row[0] for row in rows] == ["base", "1", "2"]
    assert rows[-1][1].startswith("3.000")
