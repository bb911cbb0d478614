import pytest

from plait.ledger.events import Resumed, RoundFinished, RoundStarted, UpdateReceived
from plait.ledger.fleet import DeviceWorked
from plait.rounds.paces import BySpeed, ClientSpeeds, Pace


def worked(client: str, train_s: float, rest_s: float) -> DeviceWorked:
    return DeviceWorked(
        round=1, client=client, purpose="train", began_s=5.0, received_s=5.0, worked_s=5.0 + train_s,
        ended_s=5.0 + train_s + rest_s, outcome="answered",
    )  # fmt: skip


def test_paces_follow_from_finished_rounds_alone():
    started = RoundStarted(round=1, cohort=("a", "b"), steps={"a": 4, "b": 8})
    first = [started, worked("a", 2.0, 1.0), worked("b", 2.0, 0.5)]
    assert ClientSpeeds.of(first).known == {}
    finished = RoundFinished(round=1)
    paces = ClientSpeeds.of([*first, finished])
    assert paces.known == {"a": Pace(2.0, pytest.approx(1.0)), "b": Pace(4.0, pytest.approx(0.5))}
    # Half a round that was run again counts once.
    assert ClientSpeeds.of([*first[:2], Resumed(round=0), *first, finished]).known == paces.known


def test_a_client_cannot_say_that_it_trained_for_longer_than_it_took():
    update = UpdateReceived(round=1, client="a", uplink_bytes=1, train_s=1e9, took_s=4.0)
    started = RoundStarted(round=1, cohort=("a",), steps={"a": 4})
    assert ClientSpeeds.of([started, update, RoundFinished(round=1)]).known == {"a": Pace(1.0, 0.0)}


def steps_of(local_steps: int, paces: dict[str, Pace]) -> dict[str, int]:
    steps = BySpeed().steps(local_steps, list(paces), paces)
    return {client: steps(client) for client in paces}


def test_clients_of_all_speeds_answer_together():
    paces = {name: Pace(speed, 1.0) for name, speed in (("a", 0.5), ("b", 1.0), ("c", 2.5), ("d", 4.0))}
    planned = steps_of(16, paces)
    assert sum(planned.values()) == 64
    ends = [pace.rest_s + planned[name] / pace.steps_per_s for name, pace in paces.items()]
    # No further apart than half a step of the slowest.
    assert max(ends) - min(ends) <= 1.0


def test_each_client_takes_at_least_one_step_and_at_most_four_times_the_average():
    planned = steps_of(4, {"slow": Pace(0.001, 0.0), "fast": Pace(1000.0, 0.0)})
    assert planned["slow"] >= 1
    assert planned["fast"] <= 16
    assert sum(planned.values()) == 8


def test_a_client_pulls_equally_hard_whatever_its_steps():
    steps, weights = {"a": 1, "b": 9}, {"a": 3.0, "b": 1.0}
    factors = BySpeed().factors(steps, weights)
    # AdamW's steps lead as far as the square root of their number.
    lengths = {"a": 1.0, "b": 3.0}
    assert factors["a"] * lengths["a"] == pytest.approx(factors["b"] * lengths["b"])
    # Together as far as they went without factors.
    went = (3 * 1.0 + 1 * 3.0) / 4
    assert sum(weights[name] / 4 * factors[name] * lengths[name] for name in steps) == pytest.approx(went)
    assert BySpeed().factors({"a": 4, "b": 4}, {}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("train_s", [5e-324, 1e-308, 1e-300, -1e9])
def test_no_time_that_a_client_states_stops_the_run_or_takes_steps_from_the_others(train_s):
    started = RoundStarted(round=1, cohort=("a", "b"), steps={"a": 8, "b": 8})
    updates = [
        UpdateReceived(round=1, client=name, uplink_bytes=1, train_s=said, took_s=5.0)
        for name, said in (("a", train_s), ("b", 4.0))
    ]
    steps = BySpeed().steps(8, ["a", "b"], ClientSpeeds.of([started, *updates, RoundFinished(round=1)]).known)
    assert [steps("a"), steps("b")] == [8, 8]
