"""No silent client holds up asynchronous rounds."""

import itertools
import time

import pytest

from plait.ledger.watch import Watch
from plait.rounds.buffer import Buffer
from plait.rounds.channel import Liveness, Purpose
from tests.features.asynchronous.buffered import rounds_of


def given_up(federation):
    """Who gave no answer, and why; here, not on a network, a client may train before an evaluation that came first."""
    refused = federation.of_kind("update_refused")
    return {(event["client"], event["reason"]) for event in refused if event["reason"] != "need-full"}


def test_asynchronous_rounds_do_not_wait_for_a_silent_client(stalling):
    federation = stalling(Purpose.TRAIN, Liveness(idle_s=10**9), rounds=2, **rounds_of(Buffer(3, 9, 3)))
    silent, looks = federation.channel.silent, itertools.count()

    def at_most(asked):
        assert next(looks) < 1000, "the buffer is waited for without end"
        return silent(asked)

    federation.channel.silent = at_most
    federation.run()
    assert given_up(federation) == {("mallory", "silent")}
    assert [event["received"] for event in federation.of_kind("round_finished")] == [2, 2]


def test_nor_does_an_evaluation_beside_them(stalling):
    plan = {"rounds": 8, "eval_every": 2, **rounds_of(Buffer(2, 9, 3))}
    federation = stalling(Purpose.EVALUATE, Liveness(idle_s=10**9), **plan)
    federation.channel.silent = lambda asked: (
        (asked.client, asked.purpose, asked.round) == ("mallory", Purpose.EVALUATE, 2)
    )
    federation.run()
    assert given_up(federation) == {("mallory", "silent")}
    evaluated = {event["round"]: sorted(event["by_client"]) for event in federation.of_kind("evaluated")}
    assert evaluated[2] == ["alice", "bob"]
    assert set(evaluated) == {0, 2, 4, 6, 8}


class Killed(BaseException):
    """The process ends."""


class Once(list):
    """What is published; the first time that it is this round's adapter, the process is killed before."""

    def __init__(self, number):
        self.left = [number]

    def append(self, state):
        if state.round in self.left:
            self.left.clear()
            raise Killed
        super().append(state)


def test_an_adapter_is_published_once_it_is_evaluated_beside_training_also_by_a_server_that_was_killed(stalling):
    plan = {"rounds": 6, "eval_every": 2, "watch": Watch("accepted"), **rounds_of(Buffer(2, 9, 3))}
    federation = stalling(Purpose.EVALUATE, Liveness(), **plan)
    federation.channel.silent = lambda asked: False
    federation.published = Once(2)
    with pytest.raises(Killed):
        federation.run()
    federation.run()
    evaluated = {event["round"]: event["adapter"] for event in federation.of_kind("evaluated")}
    published = {state.round: state.shadow.digest().hex() for state in federation.published}
    assert set(published) == {0, 2, 4, 6}
    assert published == evaluated


@pytest.mark.parametrize("buffered", [False, True], ids=["cohort", "buffer"])
@pytest.mark.parametrize("deadline_s", [None, 4000.0])
def test_a_round_with_half_of_its_updates_or_less_waits_for_clients_that_were_lost(
    federate, clock, monkeypatch, buffered, deadline_s
):
    """Two of three leave in round 2 and come back once they are waited for, or not before the deadline."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    options = rounds_of(Buffer(3, 9, 3)) if buffered else {}
    federation = federate(rounds=3, quorum=1, attempts=3, deadline_s=deadline_s, **options)
    channel, waited = federation.channel, []
    channel.open_ended = True

    def tamper(asked, reply):
        if waited or (asked.purpose, asked.round) != (Purpose.TRAIN, 2) or asked.client == "alice":
            return reply
        channel.gone.add(next(node for node, name in channel.names.items() if name == asked.client))
        return "node left"

    def wait(timeout_s):
        waited.append(timeout_s)
        if deadline_s is None or federation.of_kind("round_finished")[-1]["round"] == 2:
            channel.gone.clear()

    channel.tamper, channel.wait = tamper, wait
    federation.run()
    missing = [event["missing"] for event in federation.of_kind("waiting_for_clients")]
    assert missing[0] == ["bob", "mallory"]
    received = [event["received"] for event in federation.of_kind("round_finished")]
    assert received[1] == (3 if deadline_s is None else 1)
