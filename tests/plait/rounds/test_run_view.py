from __future__ import annotations

import pytest

from plait.errors import PeerError
from plait.rounds.run_now import Traffic
from tests.plait.conftest import view_of


def test_a_ledger_must_begin_with_the_start_of_a_run(small_run) -> None:
    with pytest.raises(PeerError, match="is empty, expected 'run_started'"):
        view_of([])
    with pytest.raises(PeerError, match="is 'broadcast', expected 'run_started'"):
        view_of(small_run[1:])


def test_bytes_add_up_by_round_and_client_in_each_direction(small_run) -> None:
    view = view_of(small_run)
    assert view.traffic[1, "ann"] == Traffic(uplink_bytes=3000 + 50, downlink_bytes=1000 + 100)
    assert view.traffic[1, "bob"] == Traffic(uplink_bytes=4000, downlink_bytes=2000)
    assert view.traffic_by_round[0] == Traffic(uplink_bytes=20 + 20, downlink_bytes=10 + 10)
    assert list(view.traffic_by_round) == [0, 1, 2]


def test_an_evaluation_knows_the_bytes_sent_before_it(small_run) -> None:
    view = view_of(small_run)
    set_up = 10 + 20 + 10 + 20
    first_round = 1000 + 2000 + 3000 + 4000 + 100 + 50
    second_round = 1000 + 2000 + 3000 + 4000
    assert view.sent_bytes_before == {
        0: set_up,
        1: set_up + first_round,
        2: set_up + first_round + second_round,
    }
    assert view.sent.total_bytes == set_up + first_round + second_round


def test_a_repeated_round_costs_its_bytes_again_but_counts_once(small_run) -> None:
    """Killed in round 2 after an update, resumed, and round 2 done again: the last loss holds."""
    again = [event for event in small_run if event.get("round") == 2]
    events = [*small_run[:-1], {"event": "resumed", "round": 1}, *again, {**again[-1], "loss": 2.875}]
    once, twice = view_of(small_run), view_of(events)
    assert twice.traffic[2, "ann"].uplink_bytes == 2 * once.traffic[2, "ann"].uplink_bytes
    assert twice.client_rounds == once.client_rounds == 4
    assert len(twice.rounds) == 2
    assert twice.final_evaluation is not None
    assert twice.final_evaluation.loss == 2.875


def test_time_between_interruption_and_resumption_is_not_work(small_run) -> None:
    started = small_run[0]
    events = [
        {**started, "time": 100.0},
        {"event": "interrupted", "round": 0, "time": 107.0},
        {"event": "resumed", "round": 0, "time": 9000.0},
        {"event": "round_started", "round": 1, "time": 9002.0},
    ]
    assert view_of(events).wall_s == (107 - 100) + (9002 - 9000)


def test_a_refused_update_costs_bytes_and_is_no_client_round(hostile_run) -> None:
    view = view_of(hostile_run)
    (refusal,) = view.refusals
    assert view.traffic[1, refusal.client].uplink_bytes == 2000
    assert view.client_rounds == 6
    assert refusal.client not in {client for _, client in view.updates}


def test_a_field_of_the_wrong_kind_names_its_event(small_run) -> None:
    broken = [*small_run[:1], {**small_run[1], "downlink_bytes": "many"}]
    with pytest.raises(PeerError, match=r"event 1 \(broadcast\): 'downlink_bytes' is 'many', expected a valid integer"):
        view_of(broken)


def test_a_client_that_could_not_take_part_is_told_with_its_last_reason_unless_it_did_later(small_run) -> None:
    def turned_away(**fields):
        return {"event": "client_turned_away", "node": 5, **fields}

    events = [
        small_run[0],
        turned_away(client="carol", reason="failed", detail="first"),
        turned_away(client="carol", reason="unusable-data", detail="no labels"),
        turned_away(client="dora", reason="silent", detail="no word"),
        turned_away(detail="no name yet"),
        {"event": "clients_described", "clients": [{"client": "dora"}]},
    ]
    assert [(name, each.reason, each.detail) for name, each in view_of(events).left_out.items()] == [
        ("carol", "unusable-data", "no labels"),
        ("node 5", "", "no name yet"),
    ]
