import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from plait.adapters import Layout
from plait.errors import PeerError
from plait.rounds.channel import Identity, Liveness, Patience, Purpose
from plait.wire.messages import Refusal, RefusalReason, UpdateReply, decode_reply, encode_reply

ALWAYS = 1 << 30


def row(name, examples, held_out_tokens):
    return {
        "client": name,
        "train_examples": examples,
        "train_tokens": 10 * examples,
        "held_out_examples": 4,
        "held_out_tokens": held_out_tokens,
        "rank": 2,
        "histogram": {"fake": 4},
        "cut_examples": 0,
        "left_out_examples": 0,
        "repeated_examples": 0,
        "judge_examples": 0,
        "judge_tokens": 0,
    }


def open_federation(federate, *args, patience=None, **plan):
    """A federation whose clients come and go; none is waited for by the clock."""
    federation = federate(*args, patience=patience or Patience(), **plan)
    federation.channel.open_ended = True
    return federation


def told(federation, kind="client_turned_away"):
    return [(event["client"], event["reason"]) for event in federation.of_kind(kind)]


def refusing(reason, detail="what is wrong", client="mallory"):
    """A client that answers its description with a refusal."""
    return lambda asked, reply: (
        encode_reply(Refusal(asked.client, reason, detail))
        if (asked.client, asked.purpose) == (client, Purpose.DESCRIBE)
        else reply
    )


def cohorts(federation):
    return [set(event["cohort"]) for event in federation.of_kind("round_started")]


class Days:
    """A clock that shows hours later each time somebody waits, and minutes later where nobody is heard."""

    def __init__(self, monkeypatch, federation):
        self.now = 0.0
        exchange = type(federation.channel.exchange(Purpose.DESCRIBE, "0"))
        receive = exchange.receive

        def and_time_goes_by(heard, timeout_s):
            if (answer := receive(heard, timeout_s)) is None and timeout_s:
                self.now += 200.0
            return answer

        monkeypatch.setattr(exchange, "receive", and_time_goes_by)
        monkeypatch.setattr("plait.rounds.roster.time.monotonic", lambda: self.now)
        federation.channel.wait = self.wait

    def wait(self, timeout_s):
        self.now += 3600.0


def test_the_ledger_says_who_takes_part_whichever_client_answered_first(federate):
    federation = federate()
    federation.channel.order = lambda nodes: nodes[::-1]
    federation.run()
    (event,) = federation.of_kind("clients_described")
    assert event["clients"] == [row("alice", 3, 10), row("bob", 7, 40), row("mallory", 2, 40)]


# Where all are there from the start


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        (
            {"base_fingerprint": b"g" * 32},
            "wrong-base",
            "base of client 'mallory' is 6767676767676767, expected 66",
        ),
        ({"layout": Layout.of({"other": [16]})}, "spec-mismatch", "layout of the adapter has"),
        ({"train_examples": 0}, "too-little-data", "client 'mallory' has no training examples"),
        ({"train_examples": 2**44}, "weight", "client 'mallory' states 17592186044416 training examples of"),
    ],
)
def test_a_client_that_does_not_fit_is_left_out_and_named(federate, change, reason, message):
    models = dict(federate().models)
    models["mallory"] = replace(models["mallory"], **change)
    federation = federate(models, quorum=2)
    federation.run()
    (event,) = federation.of_kind("client_turned_away")
    assert (event["client"], event["reason"], message in event["detail"]) == ("mallory", reason, True)
    assert cohorts(federation) == [{"alice", "bob"}] * 2
    assert [event["refused"] for event in federation.of_kind("round_finished")] == [0, 0]
    with pytest.raises(PeerError, match=f"2 of 3 clients can take part, but at least 3 are needed: mallory: {message}"):
        federate(models, quorum=3).run()


@pytest.mark.parametrize(("reason", "open_ended"), [(RefusalReason.POLICY, False), (RefusalReason.UNUSABLE_DATA, True)])
def test_a_refusal_is_told_under_its_own_code_in_the_clients_own_words(federate, reason, open_ended):
    federation = federate(clients=2, quorum=2)
    federation.channel.open_ended = open_ended
    federation.channel.tamper = refusing(reason, "label of 3 of 5 records is none of the run's")
    # The name is that of its key, if it has one.
    name = "eve" if open_ended else "mallory"
    federation.channel.identities = {federation.node("mallory"): Identity("eve", b"k" * 32)} if open_ended else {}
    federation.run()
    (event,) = federation.of_kind("client_turned_away")
    code = reason.name.lower().replace("_", "-")
    assert (event["client"], event["reason"]) == (name, code)
    assert event["detail"] == "label of 3 of 5 records is none of the run's"
    (told,) = federation.channel.turned_away
    assert told[1:] == (code, event["detail"])
    assert cohorts(federation) == [{"alice", "bob"}] * 2


def test_two_clients_of_one_name_are_one_client(federate):
    federation = federate(quorum=2)
    federation.channel.tamper = lambda asked, reply: encode_reply(
        replace(decode_reply(reply, max_bytes=ALWAYS), client="bob")
    )
    with pytest.raises(PeerError, match="two clients are called 'bob'"):
        federation.run()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"junk", "node 102: reply of 4 bytes"),
        (encode_reply(UpdateReply(b"")), "node 102 answered with UpdateReply, expected a description"),
    ],
)
def test_a_node_that_cannot_describe_itself_does_not_count(federate, reply, reason):
    federation = federate(quorum=3)
    federation.channel.tamper = lambda asked, honest: reply if asked.client == "mallory" else honest
    with pytest.raises(PeerError, match=f"2 of 3 clients can take part, but at least 3 are needed: node 102: {reason}"):
        federation.run()


# Where they come and go


def test_a_silent_node_is_not_waited_for_where_enough_others_can_take_part(federate, monkeypatch):
    federation = open_federation(federate, clients=2, quorum=2)
    federation.channel.silent = lambda asked: asked.client == "mallory"
    # A wait by the clock lasts for ever.
    federation.channel.wait = wait = lambda timeout_s: pytest.fail("somebody was waited for")
    monkeypatch.setattr("plait.rounds.roster.time", SimpleNamespace(monotonic=time.monotonic, sleep=wait))
    federation.run()
    assert cohorts(federation) == [{"alice", "bob"}] * 2


@pytest.mark.parametrize(
    ("idle_s", "answers", "recorded"),
    [(10**6, False, [("node 102", "silent")]), (0, False, []), (0, True, [("mallory", "failed")])],
    ids=["silent", "at work", "failed"],
)
def test_a_node_without_a_description_is_recorded_once_and_asked_again_later_unless_it_is_at_work_on_one(
    federate, monkeypatch, idle_s, answers, recorded
):
    federation = open_federation(federate, clients=3, quorum=2, cohort_size=3)
    channel, clock, refuse = federation.channel, Days(monkeypatch, federation), refusing(RefusalReason.FAILED)
    channel.node_liveness = {federation.node("mallory"): Liveness(since=1.0, idle_s=idle_s)}
    channel.silent = lambda asked: not answers and asked.client == "mallory" and clock.now < 7200
    channel.tamper = lambda asked, reply: refuse(asked, reply) if answers and clock.now < 7200 else reply
    federation.run()
    assert told(federation) == recorded
    assert cohorts(federation)[0] == {"alice", "bob", "mallory"}


def test_a_client_that_left_is_waited_for_only_for_a_while_once_the_run_has_begun(federate, monkeypatch):
    federation = open_federation(federate, rounds=3, quorum=2)
    Days(monkeypatch, federation)
    federation.channel.before = lambda asked: (
        federation.channel.gone.add(federation.node("bob")) if asked.round == 1 else None
    )
    federation.run()
    assert cohorts(federation) == [{"alice", "bob", "mallory"}, {"alice", "mallory"}, {"alice", "mallory"}]
    # Within the time, which is over for all rounds to come.
    assert len(federation.of_kind("waiting_for_clients")) <= 3


def test_a_client_that_refused_is_asked_again_once_it_has_attached_anew_and_not_before(federate, monkeypatch):
    federation = open_federation(federate, clients=3, quorum=2)
    channel, node = federation.channel, federation.node("mallory")
    Days(monkeypatch, federation)
    channel.node_liveness = {node: Liveness(since=1.0)}
    channel.tamper = refusing(RefusalReason.UNUSABLE_DATA)
    waits = []

    def come_back(timeout_s):
        waits.append(timeout_s)
        if len(waits) == 50:
            channel.node_liveness = {node: Liveness(since=2.0)}
            channel.tamper = lambda asked, reply: reply

    channel.wait = come_back
    federation.run()
    assert len(waits) == 50
    assert told(federation) == [("mallory", "unusable-data")]
    described = [ask for ask in channel.asked if (ask.client, ask.purpose) == ("mallory", Purpose.DESCRIBE)]
    assert len(described) == 2
    assert cohorts(federation)[0] == {"alice", "bob", "mallory"}


def test_a_client_that_changes_its_largest_rank_at_every_question_is_asked_twice(federate):
    federation = open_federation(federate, clients=2, quorum=2, ranks={"alice": 1, "bob": 2, "mallory": 1})
    asked_of = []

    def alternating(asked, reply):
        if (asked.client, asked.purpose) != ("mallory", Purpose.DESCRIBE):
            return reply
        asked_of.append(asked)
        assert len(asked_of) < 10, "it goes on for ever"
        card = decode_reply(reply, max_bytes=ALWAYS)
        # Always the other one than it is asked about.
        return encode_reply(replace(card, max_rank=1 if len(asked_of) % 2 else 2))

    federation.channel.tamper = alternating
    federation.run()
    assert len(asked_of) == 2
    assert told(federation) == [("mallory", "rank")]
    assert cohorts(federation) == [{"alice", "bob"}] * 2
