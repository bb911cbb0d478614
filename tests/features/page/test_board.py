from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from plait.features.page.board import MOST_REFUSALS, Board
from plait.features.page.merge import join, merge
from plait.rounds.events import parse_event
from tests.plait.conftest import broadcast, numbered, received, replied, round_finished, run_started, view_of


def board_of(events: list[dict[str, object]]) -> tuple[Board, list[Any]]:
    board = Board()
    return board, [board.take(parse_event(event)) for event in events]


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


def test_a_document_as_of_any_event_is_whole_after_the_later_patches(events) -> None:
    last, patches = board_of(events)
    sent = json.loads(json.dumps(patches))
    for length in range(len(events) + 1):
        document = copy.deepcopy(board_of(events[:length])[0].document)
        for patch in sent[length:]:
            merge(document, patch)
        assert document == last.document


def test_the_time_to_go_is_that_of_the_rounds_which_the_run_planned() -> None:
    start = run_started()
    start["config"] = {**start["config"], "rounds": 5}
    board, _ = board_of(numbered([start, {"event": "round_finished", "round": 1, "wall_s": 3.0}]))
    assert board.document["eta_s"] == 12.0


def test_the_timeline_holds_the_clients_of_this_round_alone() -> None:
    def begun(number: int, name: str) -> list[dict[str, object]]:
        start = {"event": "round_started", "round": number, "cohort": [name]}
        return [start, broadcast(number, name, 10), received(number, name, 20)]

    board, _ = board_of(numbered([run_started(), *begun(1, "ann"), *begun(2, "bob")]))
    clients: Any = board.document["clients"]
    assert {name: ("given" in one, "answered" in one) for name, one in clients.items()} == {
        "ann": (False, False),
        "bob": (True, True),
    }


def test_in_an_asynchronous_run_the_timeline_goes_on_over_rounds() -> None:
    run = run_started(config={"rounds": 2, "rounds-mode": "async"})

    def begun(number: int, *names: str) -> dict[str, object]:
        return {"event": "round_started", "round": number, "cohort": names}

    first = [broadcast(1, "ann", 10), broadcast(1, "bob", 10), begun(1, "ann", "bob"), received(1, "ann", 20)]
    again = [broadcast(1, "cid", 10), received(1, "cid", 20), round_finished(1, 2)]
    beside = [broadcast(1, "bob", 10, "evaluate"), replied(1, "bob", 5)]
    events = numbered([run, *first, *again, *beside, broadcast(2, "ann", 10), begun(2, "ann", "bob")])
    board, patches = board_of(events)
    assert patches[5]["round"]["cohort"] == 3
    over = numbered([*events, round_finished(2, 2), broadcast(2, "bob", 10, "evaluate"), replied(2, "bob", 5)])
    assert board_of(over)[0].document["clients"]["bob"]["state"] == "ready"
    clients: Any = board.document["clients"]
    assert {name: (one["state"], one.get("given"), one.get("answered")) for name, one in clients.items()} == {
        "ann": ("training", 1100.0, None),
        "bob": ("training", 1020.0, None),
        "cid": ("ready", None, None),
    }


def test_no_later_event_changes_a_patch(events) -> None:
    board, as_made = Board(), []
    patches = []
    for event in events:
        patches.append(board.take(parse_event(event)))
        as_made.append(copy.deepcopy(patches[-1]))
    assert patches == as_made


def test_its_figures_are_those_of_a_report(events) -> None:
    document: Any = board_of(events)[0].document
    view = view_of(events)
    assert document["uplink_bytes"] == view.sent.uplink_bytes
    assert document["downlink_bytes"] == view.sent.downlink_bytes
    assert document.get("updates", 0) == view.client_rounds
    assert document["worked_s"] == view.wall_s
    assert document["rounds_planned"] == view.planned_rounds
    assert ("finished" in document) == view.finished
    assert {name for name in document["clients"] if "examples" in document["clients"][name]} == set(view.clients)
    for number, evaluation in view.evaluations.items():
        assert document["rounds"][str(number)]["loss"] == evaluation.loss
        for name, score in evaluation.by_client.items():
            assert document["clients"][name]["losses"][str(number)] == score.loss
    for number, traffic in view.traffic_by_round.items():
        assert document["rounds"][str(number)]["uplink_bytes"] == traffic.uplink_bytes
        assert document["rounds"][str(number)]["downlink_bytes"] == traffic.downlink_bytes


def test_a_client_goes_through_the_states_of_a_round(small_run) -> None:
    seen = []
    board = Board()
    for event in small_run:
        board.take(parse_event(event))
        clients: Any = board.document.get("clients", {})
        state = clients.get("ann", {}).get("state")
        if not seen or seen[-1] != state:
            seen.append(state)
    once = ["chosen", "training", "done"]
    assert seen == [None, "ready", *once, "evaluating", "ready", *once, "ready"]


def test_a_client_is_late_after_twice_the_median_of_the_others_but_no_sooner_than_after_5_s() -> None:
    names = ["ann", "bob", "cid", "dan"]
    start = [run_started(), {"event": "round_started", "round": 1, "cohort": names}]
    given = [broadcast(1, name, 10) | {"time": 2000.0} for name in names]
    answers = [
        received(1, name, 10) | {"time": 2000.0 + took} for name, took in zip(names, (1.0, 40.0, 20.0), strict=False)
    ]
    board, patches = board_of(numbered([*start, *given, *answers]))
    assert [patch["round"]["late_after_s"] for patch in patches[-3:]] == [5.0, 41.0, 40.0]
    assert board.document["round"]["received"] == 3  # type: ignore[index, call-overload]


def test_only_the_newest_refusals_are_kept_and_all_are_counted() -> None:
    refused = {"event": "update_refused", "round": 1, "client": "ann", "reason": "norm", "detail": "x"}
    board, _ = board_of(numbered([run_started(), *[refused] * (MOST_REFUSALS + 5)]))
    assert board.document["refused"] == MOST_REFUSALS + 5
    assert list(board.document["refusals"]) == [str(seq) for seq in range(6, MOST_REFUSALS + 6)]  # type: ignore[arg-type]


def test_joined_patches_do_what_they_do_one_after_the_other() -> None:
    first, second = {"a": {"b": None, "c": 1}, "d": 2}, {"a": {"b": 3, "c": None}, "e": {"f": None}}
    apart: Any = {"a": {"b": 0, "c": 0}}
    together = copy.deepcopy(apart)
    merge(apart, first)
    merge(apart, second)
    merge(together, join(first, second))
    assert apart == together == {"a": {"b": 3}, "d": 2, "e": {}}
