from typing import Any

import pytest

from plait.ledger.events import parse_event
from plait.page.feed import MOST_REFUSALS, Board
from tests.plait.conftest import broadcast, numbered, received, run_started, view_of


def board_of(events: list[dict[str, object]]) -> Board:
    board = Board()
    for event in events:
        board.take(parse_event(event))
    return board


@pytest.fixture(params=["small_run", "hostile_run", "run_with_margins", "refused"])
def events(request: pytest.FixtureRequest, small_run: list[dict[str, object]]) -> list[dict[str, object]]:
    if request.param != "refused":
        return request.getfixturevalue(request.param)
    refused = {
        "event": "update_refused",
        "round": 2,
        "client": "ann",
        "reason": "norm",
        "detail": "x",
        "uplink_bytes": 7,
    }
    away = {"event": "client_turned_away", "node": 9, "reason": "too-little-data"}
    replaced = {"event": "client_replaced", "round": 2, "client": "bob", "by": "cid"}
    missed = {"event": "round_missed", "round": 2, "attempt": 1, "received": 1}
    again = [broadcast(2, "cid", 10), broadcast(2, "ann", 10), received(2, "ann", 20)]
    return numbered([*small_run[:-5], refused, away, replaced, missed, *again, {"event": "interrupted", "round": 1}])


def test_its_figures_are_those_of_a_report(events):
    document: Any = board_of(events).document
    view = view_of(events)
    assert document["uplink_bytes"] == view.sent.uplink_bytes
    assert document["downlink_bytes"] == view.sent.downlink_bytes
    assert document["updates"] == view.client_rounds
    assert document["worked_s"] == view.wall_s
    assert document["rounds_planned"] == view.planned_rounds
    assert ("finished" in document) == view.finished
    assert {name for name, one in document["clients"].items() if one["examples"] is not None} == set(view.clients)
    for number, evaluation in view.evaluations.items():
        assert document["rounds"][str(number)]["loss"] == evaluation.loss
    for name, score in max(view.evaluations.items())[1].by_client.items() if view.evaluations else ():
        assert document["clients"][name]["loss"] == score.loss
    for number, traffic in view.sent_by_round.items():
        assert document["rounds"][str(number)]["uplink_bytes"] == traffic.uplink_bytes
        assert document["rounds"][str(number)]["downlink_bytes"] == traffic.downlink_bytes


def test_only_the_newest_refusals_are_kept_and_all_are_counted():
    refused = {"event": "update_refused", "round": 1, "client": "ann", "reason": "norm", "detail": "x"}
    board = board_of(numbered([run_started(), *[refused] * (MOST_REFUSALS + 5)]))
    assert board.document["refused"] == MOST_REFUSALS + 5
    assert len(board.document["refusals"]) == MOST_REFUSALS  # type: ignore[arg-type]
