from types import SimpleNamespace

import pytest

from plait.config import config_from_table
from plait.errors import ConfigError
from plait.report.staleness import staleness_table
from plait.report.tables import report_tables
from plait.rounds.buffer import Buffer, buffer_of
from plait.rounds.events import UpdateReceived
from plait.rounds.watch import Watch
from plait.settle import settle
from tests.plait.conftest import view_of


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("async:9", "rounds-mode is 'async:9' and 8 clients are at work at once, expected at most as many"),
        ("async:1", "rounds-mode is 'async:1', expected at least 2 updates"),
        ("sync:4", "expected sync, async, or async:K"),
        ("async:0", "expected sync, async, or async:K"),
    ],
)
def test_a_buffer_has_two_updates_of_clients_at_work_at_least(mode, message):
    with pytest.raises(ConfigError, match=message):
        config_from_table({"rounds-mode": mode})


def test_asynchronous_rounds_follow_from_how_many_clients_are_at_work():
    settled = settle(config_from_table({"rounds-mode": "async", "clients": 40, "clients-per-round": 20}))
    assert buffer_of(settled.config) == Buffer(size=5, max_staleness=40, at_work=20)
    assert (settled.plan.folds, settled.plan.quorum, settled.plan.measures_pace) == (5, 3, True)
    assert (settled.plan.watch, settled.config.own_share) == (Watch("accepted"), 0.0)
    assert not settled.plan.settings.carry_moments
    assert settled.config.rounds_mode == "async:5"
    assert settle(settled.config).config == settled.config
    assert buffer_of(config_from_table({"rounds-mode": "async:3"})) == Buffer(size=3, max_staleness=30, at_work=8)


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
