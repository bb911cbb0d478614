from __future__ import annotations

import pytest

from plait.rounds.events import Resumed, RoundFinished, RoundStarted, UpdateReceived
from plait.rounds.fleet_events import DeviceWorked
from plait.rounds.paces import Pace, Paces


def worked(client: str, train_s: float, rest_s: float) -> DeviceWorked:
    return DeviceWorked(
        round=1, client=client, purpose="train", began_s=5.0, received_s=5.0, worked_s=5.0 + train_s,
        ended_s=5.0 + train_s + rest_s, outcome="answered",
    )  # fmt: skip


def test_paces_follow_from_finished_rounds_alone() -> None:
    started = RoundStarted(round=1, cohort=("a", "b"), steps={"a": 4, "b": 8})
    first = [started, worked("a", 2.0, 1.0), worked("b", 2.0, 0.5)]
    assert Paces.of(first).known == {}
    finished = RoundFinished(round=1)
    paces = Paces.of([*first, finished])
    assert paces.known == {"a": Pace(2.0, pytest.approx(1.0)), "b": Pace(4.0, pytest.approx(0.5))}
    # Half a round that was run again counts once.
    assert Paces.of([*first[:2], Resumed(round=0), *first, finished]).known == paces.known


def test_where_all_take_as_many_steps_the_ledger_has_no_numbers() -> None:
    equal = [RoundStarted(round=1, cohort=("a",)), worked("a", 2.0, 1.0), RoundFinished(round=1)]
    paces = Paces.of(equal, local_steps=6)
    assert paces.known == {"a": Pace(3.0, pytest.approx(1.0))}
    assert (paces.expected_s("a"), paces.expected_s("a", 9)) == pytest.approx((3.0, 4.0))
    assert paces.expected_s("b") is None
    assert Paces.of(equal).known == {}


def test_a_client_cannot_say_that_it_trained_for_longer_than_it_took() -> None:
    update = UpdateReceived(round=1, client="a", uplink_bytes=1, train_s=1e9, took_s=4.0)
    started = RoundStarted(round=1, cohort=("a",), steps={"a": 4})
    assert Paces.of([started, update, RoundFinished(round=1)]).known == {"a": Pace(1.0, 0.0)}
