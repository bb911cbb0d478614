from types import SimpleNamespace

from plait.report.staleness import staleness_table
from plait.report.tables import report_tables
from plait.rounds.events import UpdateReceived
from tests.plait.conftest import view_of


def test_a_clients_part_is_that_of_all_weights_for_a_heavier_fold_moves_further():
    came = (("ada", 1, 1, 1.0), ("bob", 1, 1, 1.0), ("ada", 2, 2, 0.25), ("eve", 1, 2, 0.25))
    updates = {
        (began, client): UpdateReceived(
            round=began, client=client, uplink_bytes=9, fold=fold, staleness=fold - began, weight=weight
        )
        for client, began, fold, weight in came
    }
    table = staleness_table(SimpleNamespace(updates=updates))
    assert {row[0]: row[1:] for row in table.rows} == {
        "ada": ("2", "0.0", "0", "50.0 %"),
        "bob": ("1", "0.0", "0", "40.0 %"),
        "eve": ("1", "1.0", "1", "10.0 %"),
    }


def test_the_report_of_an_asynchronous_run_alone_says_how_stale_updates_were(small_run):
    folded = [
        event | {"fold": 1, "staleness": 3, "weight": 0.5} for event in small_run if event["event"] == "update_received"
    ]
    started = small_run[0] | {"config": small_run[0]["config"] | {"rounds-mode": "async:2"}}
    assert "Staleness" in [table.title for table in report_tables(view_of([started, *folded]))]
    assert "Staleness" not in [table.title for table in report_tables(view_of(small_run))]
