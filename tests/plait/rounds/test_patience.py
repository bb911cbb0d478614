"""No silent or endless client delays a run forever, and no slow one that works is given up."""

import pytest

from plait.rounds.channel import Liveness, Patience, Purpose

HOUR_S = 3600.0


def test_a_client_that_shows_its_work_is_never_too_quiet():
    patience = Patience(silent_s=300.0)
    assert not patience.is_silent(asked_s=24 * HOUR_S, idle_s=10.0)
    assert not patience.is_silent(asked_s=10.0, idle_s=24 * HOUR_S)
    assert patience.is_silent(asked_s=301.0, idle_s=24 * HOUR_S)


@pytest.mark.parametrize(
    ("asked_s", "took_s", "asked", "expected"),
    [
        (100 * HOUR_S, [], 1, False),
        (100 * HOUR_S, [1.0], 3, False),
        (899.0, [1.0, 2.0], 4, False),
        (901.0, [1.0, 2.0], 4, True),
        (9 * HOUR_S, [HOUR_S], 2, False),
        (11 * HOUR_S, [HOUR_S], 2, True),
        (11 * HOUR_S, [HOUR_S, 100 * HOUR_S], 4, True),
    ],
)
def test_a_client_is_too_slow_only_far_behind_half_of_the_others(asked_s, took_s, asked, expected):
    assert Patience().is_slow(asked_s=asked_s, took_s=took_s, asked=asked) is expected


def test_a_client_that_was_given_up_rests_four_times_as_long_as_it_was_waited_for():
    assert Patience().rest_s(1.0) == Patience().again_s
    assert Patience().rest_s(HOUR_S) == 4 * HOUR_S


@pytest.mark.parametrize(
    ("liveness", "reason", "detail"),
    [
        (Liveness(idle_s=10**9), "silent", "is connected, but has shown no progress for 300 s"),
        (Liveness(idle_s=5.0), "slow", "far longer than the others took"),
    ],
)
def test_a_client_that_trains_for_ever_is_given_up_and_not_asked_again_at_once(stalling, liveness, reason, detail):
    federation = stalling(Purpose.TRAIN, liveness, rounds=3)
    federation.run()
    refused = federation.of_kind("update_refused")
    assert {(event["client"], event["reason"]) for event in refused} == {("mallory", reason)}
    assert all(detail in event["detail"] for event in refused)
    assert len(refused) < 3
    assert [event["received"] for event in federation.of_kind("round_finished")] == [2, 2, 2]
    assert {(event["client"], event["reason"]) for event in federation.of_kind("client_turned_away")} == {
        ("mallory", reason)
    }


def test_in_one_process_a_client_is_waited_for_as_long_as_it_works(federate, clock):
    federation = federate(rounds=1)
    federation.channel.node_liveness = {node: Liveness(idle_s=10**9) for node in federation.channel.names}
    federation.run()
    assert not federation.of_kind("update_refused")
