import pytest

from plait.errors import PeerError
from tests.plait.conftest import view_of


def test_a_ledger_must_begin_with_the_start_of_a_run(small_run):
    with pytest.raises(PeerError, match="is empty, expected 'run_started'"):
        view_of([])
    with pytest.raises(PeerError, match="is 'broadcast', expected 'run_started'"):
        view_of(small_run[1:])


def test_a_repeated_round_costs_its_bytes_again_but_counts_once(small_run):
    """Killed in round 2 after an update, resumed, and round 2 done again: the last loss holds."""
    again = [event for event in small_run if event.get("round") == 2]
    events = [*small_run[:-1], {"event": "resumed", "round": 1}, *again, {**again[-1], "loss": 2.875}]
    once, twice = view_of(small_run), view_of(events)
    assert twice.traffic[2, "ann"].uplink_bytes == 2 * once.traffic[2, "ann"].uplink_bytes
    assert twice.client_rounds == once.client_rounds == 4
    assert len(twice.rounds) == 2
    assert twice.final_evaluation.loss == 2.875


def test_time_between_interruption_and_resumption_is_not_work(small_run):
    started = small_run[0]
    events = [
        {**started, "time": 100.0},
        {"event": "interrupted", "round": 0, "time": 107.0},
        {"event": "resumed", "round": 0, "time": 9000.0},
        {"event": "round_started", "round": 1, "time": 9002.0},
    ]
    assert view_of(events).wall_s == (107 - 100) + (9002 - 9000)


def test_a_refused_update_costs_bytes_and_is_no_client_round(hostile_run):
    view = view_of(hostile_run)
    (refusal,) = view.refusals
    assert view.traffic[1, refusal.client].uplink_bytes == 2000
    assert view.client_rounds == 6
    assert refusal.client not in {client for _, client in view.updates}
