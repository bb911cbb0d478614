"""Asynchronous rounds: staleness, weights, and a record from which every adapter follows."""

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest

from plait.config import config_from_table
from plait.errors import ConfigError, PeerError
from plait.ledger.watch import Watch
from plait.rounds import buffer as collector
from plait.rounds.buffer import Buffer, buffer_of
from plait.rounds.channel import Liveness, Patience, Purpose
from plait.settle import settle
from tests.plait.rounds.conftest import rounds_of
from tests.plait.rounds.test_audit import rewritten
from tests.plait.rounds.test_coordinator import crowd, resealed


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
    settled = settle(config_from_table({"rounds-mode": "async", "clients": 40, "clients-per-round": 20}))
    assert buffer_of(settled.config) == Buffer(size=5, max_staleness=40, at_work=20)
    with pytest.raises(ConfigError, match=message):
        config_from_table({"rounds-mode": mode})


BUFFER = Buffer(size=2, max_staleness=3, at_work=5)
STOPPING = Buffer(size=1, max_staleness=1, at_work=3)


def shuffled(seed):
    """An order in which any client may answer next; the first of them most often."""
    generator = np.random.default_rng(seed)
    return lambda nodes: sorted(nodes, key=lambda node: generator.exponential() * (1 + 3 * (node - 100)))


def begin(federate, fake_model, *, count=5, seed=1, buffer=BUFFER, **more):
    options = {"rounds": 6, **rounds_of(buffer), "quorum": 1, "keep_updates": True, "eval_every": 99, **more}
    federation = federate(crowd(fake_model, count), **options)
    federation.channel.order = shuffled(seed)
    return federation


def test_the_result_is_that_of_float64_maths_with_staleness_and_a_fair_part_for_every_client(federate, fake_model):
    federation = begin(federate, fake_model)
    final = federation.run()

    versions, recent, moved = [federation.initial.flat.astype(np.float64)], [], []
    arrived = federation.of_kind("update_received")
    for number in range(1, 7):
        folded = [event for event in arrived if event["fold"] == number]
        assert len({event["client"] for event in folded}) == len(folded) == BUFFER.size
        weights, deltas = [], []
        visits = [client for clients in recent[-3:] for client in clients]
        usual = len(visits) / len(set(visits)) if visits else 0.0
        for event in folded:
            began = versions[event["round"] - 1]
            deltas.append(federation.train_alone(event["client"], began, event["round"]) - began)
            staleness = number - event["round"]
            # A client that came more often than others counts less, and none counts more than a whole update.
            frequent = min(1.0, (1 + usual) / (1 + visits.count(event["client"])))
            weights.append(frequent / np.sqrt(1 + staleness * 2 / 5))
            assert (event["staleness"], event["weight"]) == (staleness, pytest.approx(weights[-1]))
        # Two of five clients' updates move a part of their mean: each one and a half times its fifth, times its weight.
        moved.append(sum(1.5 * weight / 5 for weight in weights))
        weights = [weight * event["examples"] for weight, event in zip(weights, folded, strict=True)]
        versions.append(versions[-1] + moved[-1] * np.average(deltas, axis=0, weights=weights))
        recent.append([event["client"] for event in folded])
    np.testing.assert_allclose(final.adapter.flat, versions[-1], rtol=1e-4, atol=1e-5)
    assert min(moved) < 0.5
    assert max(moved) == pytest.approx(0.6)
    assert {event["staleness"] for event in arrived} > {0, 1}
    # No client trains twice from the same adapter, and what is kept is bounded.
    asked = [(ask.client, ask.round) for ask in federation.channel.asked if ask.purpose is Purpose.TRAIN]
    assert len(set(asked)) == len(asked)
    assert set(final.versions) <= {3, 4, 5}
    assert federation.recomputed() == 6


@pytest.mark.slow
@pytest.mark.parametrize("buffer", [BUFFER, STOPPING], ids=["usual", "clients are stopped"])
def test_a_run_that_is_killed_anywhere_goes_on_to_what_its_ledger_and_spool_give(
    federate, fake_model, snapshots_of, buffer
):
    federation = begin(federate, fake_model, count=3, rounds=3, bits="1", buffer=buffer)
    snapshots = snapshots_of(federation)
    snapshots.run()
    assert len(snapshots.killed) > 35
    assert bool(federation.of_kind("update_refused")) is (buffer is STOPPING)
    # Not all, because each is a whole run.
    for index, (where, killed) in enumerate(snapshots.killed[::7]):
        killed.channel.order = shuffled(index)
        state = killed.run()
        assert killed.recomputed() == 3, where
        assert killed.of_kind("round_finished")[-1]["adapter"] == state.shadow.digest().hex(), where
        for kind in ("update_received", "update_refused"):
            recorded = [(event["round"], event["client"]) for event in killed.of_kind(kind)]
            assert len(set(recorded)) == len(recorded), where


@pytest.mark.slow
def test_a_node_that_comes_back_as_another_client_is_asked_once_its_first_task_is_over(
    federate, fake_model, monkeypatch
):
    monkeypatch.setattr(collector, "_LOOK_S", 0.0)
    federation = begin(federate, fake_model, rounds=12, clients=4)
    channel = federation.channel
    channel.open_ended, channel.order = True, list
    other = channel.participants.pop(104)

    def turn(asked):
        if asked.purpose is Purpose.TRAIN and asked.round == 2:
            channel.gone.add(103)
        if asked.purpose is Purpose.TRAIN and asked.round == 3:
            channel.gone.clear()
            channel.participants[103], channel.names[103] = other, "client-4"

    channel.before = turn
    channel.silent = lambda asked: (
        (asked.purpose, asked.round) == (Purpose.TRAIN, 1) and asked.client in ("client-3", "client-4")
    )
    federation.run()
    refused = [(event["client"], event["reason"]) for event in federation.of_kind("update_refused")]
    assert refused == [("client-3", "stale")]
    began = [event["round"] for event in federation.of_kind("update_received") if event["client"] == "client-4"]
    assert min(began) > 1 + BUFFER.max_staleness


@pytest.mark.parametrize("claimed", [-1, 1, 99])
def test_a_client_that_claims_another_version_is_refused(federate, fake_model, claimed):
    federation = begin(federate, fake_model, buffer=replace(BUFFER, max_staleness=6))

    def lie(asked, reply):
        if (asked.client, asked.purpose) == ("client-0", Purpose.TRAIN) and asked.round > 1:
            return resealed(reply, round=asked.round + claimed)
        return reply

    federation.channel.tamper = lie
    federation.run()
    assert {(event["client"], event["reason"]) for event in federation.of_kind("update_refused")} == {
        ("client-0", "wrong-round")
    }
    assert federation.recomputed() == 6


@pytest.mark.parametrize("claimed", [{"weight": 0.9}, {"staleness": 9}, {"fold": 3}])
def test_an_update_that_arrived_otherwise_than_its_record_says_is_found(federate, fake_model, claimed):
    federation = begin(federate, fake_model, rounds=3)
    federation.run()
    first = next(event for event in federation.of_kind("update_received") if event["fold"] == 2)
    rewritten(federation, lambda kind, line: {**line, **claimed} if line["seq"] == first["seq"] else line)
    with pytest.raises(PeerError, match="expected"):
        federation.recomputed()


def test_a_buffer_that_cannot_fill_is_folded_from_its_quorum_on(federate, fake_model):
    federation = begin(federate, fake_model, count=3, buffer=replace(BUFFER, size=3), quorum=2)
    federation.channel.tamper = lambda asked, reply: (
        "gone" if (asked.client, asked.purpose) == ("client-1", Purpose.TRAIN) else reply
    )
    federation.run()
    assert [event["received"] for event in federation.of_kind("round_finished")] == [2] * 6
    federation = begin(federate, fake_model, count=3, buffer=replace(BUFFER, size=3), quorum=3)
    federation.channel.tamper = lambda asked, reply: "gone" if asked.purpose is Purpose.TRAIN else reply
    with pytest.raises(PeerError, match="no client is left"):
        federation.run()


def given_up(federation):
    """Who gave no answer, and why; here, not on a network, a client may train before an evaluation that came first."""
    refused = federation.of_kind("update_refused")
    return {(event["client"], event["reason"]) for event in refused if event["reason"] != "need-full"}


@pytest.mark.parametrize(("liveness", "reason"), [(Liveness(idle_s=10**9), "silent"), (Liveness(), "slow")])
def test_no_buffer_waits_for_long_for_a_client_that_never_answers(stalling, liveness, reason):
    plan = {"rounds": 2, "patience": Patience(slow_s=0.0), **rounds_of(Buffer(3, 2, 3))}
    federation = stalling(Purpose.TRAIN, liveness, **plan)
    silent, looks = federation.channel.silent, itertools.count()

    def at_most(asked):
        assert next(looks) < 100_000, "the buffer is waited for without end"
        return silent(asked)

    federation.channel.silent = at_most
    federation.run()
    assert given_up(federation) == {("mallory", reason)}
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
