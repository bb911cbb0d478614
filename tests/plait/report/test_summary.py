"""The readable files of a run directory."""

import csv
import json

import pytest

from plait.cli.report import export_figures
from plait.errors import PeerError
from plait.report.summary import summarise, write_report
from tests.plait.conftest import view_of

# ann goes from 3 to 2.5, bob from 5 to 3.5.
FAIRNESS = {
    "mean_loss": 3.0, "spread": 0.5, "worst_client": "bob", "worst_loss": 3.5, "least_gaining_client": "ann",
    "least_gain": 0.5, "worse_off": 0,
}  # fmt: skip


def test_the_keys_are_the_same_from_the_first_event_on(small_run):
    assert len({tuple(summarise(view_of(small_run[:length]))) for length in range(1, len(small_run) + 1)}) == 1


def test_every_number_follows_by_hand(small_run):
    summary = summarise(view_of(small_run))
    up = (20 + 20) + (3000 + 4000 + 50) + (3000 + 4000)
    down = (10 + 10) + (1000 + 2000 + 100) + (1000 + 2000)
    client_rounds = 2 * 2
    assert summary == {
        "base_held_out_loss": 4.0,
        "base_held_out_loss_interval": None,
        "final_held_out_loss": 3.0,
        "final_held_out_loss_interval": None,
        "better_than_base": True,
        "gain": None,
        "gain_interval": None,
        "held_out_loss_by_round": [4.0, 3.5, 3.0],
        "held_out_loss_by_client": {"ann": 2.5, "bob": 3.5},
        "own_held_out_loss": None,
        "own_held_out_loss_interval": None,
        "own_gain": None,
        "own_gain_interval": None,
        "own_held_out_loss_by_client": {},
        "reference_held_out_loss": {"central": 2.9},
        "judged_loss": None,
        "judged_gain": None,
        "judged_gain_interval": None,
        "judged_own_loss": None,
        "judged_sequences": None,
        "held_out_sequences": 4,
        "reference_loss_everywhere": {"central": None},
        "fairness": FAIRNESS,
        "rounds": 2,
        "learning_rate": None,
        "kept_round": None,
        "steps_taken_back": [],
        "clients": 2,
        "dp_audit_bound": None,
        "audited_group": None,
        "membership": None,
        "trainable_parameters": 1000,
        "full_model_bytes": 4_000_000,
        "uplink_bytes": up,
        "downlink_bytes": down,
        "uplink_bytes_per_client_round": up / client_rounds,
        "downlink_bytes_per_client_round": down / client_rounds,
        "savings_vs_full_model": pytest.approx(4_000_000 * 2 * client_rounds / (up + down)),
        "savings_vs_fp32_adapter": pytest.approx(4 * 1000 * 2 * client_rounds / (up + down)),
        "savings_vs_bf16_adapter": pytest.approx(2 * 1000 * 2 * client_rounds / (up + down)),
        "savings_vs_8bit_adapter": pytest.approx(1000 * 2 * client_rounds / (up + down)),
        "savings_vs_4bit_adapter": pytest.approx(500 * 2 * client_rounds / (up + down)),
        "train_tokens_per_s": 800 / 8,
        "wall_s": 77.0,
        "virtual_s": None,
        "virtual_s_by_round": None,
        "peak_rss_bytes": 1_500_000_000,
        "seed": 7,
        "versions": {"plait": "0.1.0", "python": "3.11"},
    }


def test_a_run_that_has_only_begun_has_no_numbers_but_is_json(small_run):
    summary = summarise(view_of(small_run[:1]))
    assert summary["final_held_out_loss"] is None
    assert summary["savings_vs_full_model"] is None
    assert summary["uplink_bytes"] == 0
    json.dumps(summary, allow_nan=False)


PLOTS = {"loss_by_round.png", "loss_by_bytes.png", "clients.png"}


@pytest.mark.slow
def test_a_run_directory_gets_summary_page_and_plots(small_run, write_ledger):
    directory = write_ledger(small_run)
    view = write_report(directory)
    assert {path.name for path in directory.iterdir()} == {"ledger.jsonl", "summary.json", "report.html", *PLOTS}
    assert json.loads((directory / "summary.json").read_text()) == summarise(view)
    assert all((directory / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for name in PLOTS)
    page = (directory / "report.html").read_text()
    assert page.count("<svg ") == 2 * len(PLOTS)


def test_a_ledger_that_was_changed_writes_nothing(small_run, write_ledger):
    directory = write_ledger(small_run)
    ledger = directory / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"loss":3.5', b'"loss":2.5'))
    with pytest.raises(PeerError, match="hash chain"):
        write_report(directory)
    assert {path.name for path in directory.iterdir()} == {"ledger.jsonl"}


@pytest.mark.slow
def test_every_table_and_plot_is_exported(small_run, write_ledger, tmp_path):
    directory = write_ledger(small_run)
    export_figures(write_report(directory), directory, tmp_path / "figures")
    assert {path.name for path in (tmp_path / "figures").glob("*.png")} == PLOTS
    with (tmp_path / "figures/held_out_loss_by_round.csv").open(newline="") as file:
        headings, *rows = csv.reader(file)
    assert headings[:2] == ["round", "loss"]
    assert [row[0] for row in rows] == ["base", "1", "2"]
    assert rows[-1][1].startswith("3.000")
