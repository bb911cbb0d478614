from dataclasses import replace

import pytest

from plait.adapters import Layout
from plait.errors import BaseMismatchError, DataError, PeerError
from plait.wire.messages import Refusal, RefusalReason, UpdateReply, decode_reply, encode_reply

ALWAYS = 1 << 30


def test_the_ledger_says_who_takes_part_whoever_answered_first(federate):
    federation = federate()
    federation.channel.order = lambda nodes: nodes[::-1]
    federation.run()
    (event,) = federation.of_kind("clients_described")
    assert [row["client"] for row in event["clients"]] == ["alice", "bob", "mallory"]
    assert event["clients"][1] == {
        "client": "bob",
        "train_examples": 7,
        "train_tokens": 70,
        "held_out_examples": 4,
        "held_out_tokens": 40,
        "rank": 2,
        "histogram": {"fake": 4},
    }


def test_too_few_clients_are_an_error_that_says_why(federate):
    federation = federate()
    federation.channel.tamper = lambda asked, reply: "node 102 is gone" if asked.client == "mallory" else reply
    with pytest.raises(PeerError, match="2 clients answered, expected 3: node 102 is gone"):
        federation.run()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"base_fingerprint": b"g" * 32},
            BaseMismatchError,
            "base of client 'mallory' is 6767676767676767, expected 66",
        ),
        ({"layout": Layout.of({"other": [16]})}, PeerError, "client 'mallory' derives another adapter"),
        ({"train_examples": 0}, DataError, "client 'mallory' has no training examples, expected at least 1"),
    ],
)
def test_a_client_that_does_not_fit_is_named(federate, change, error, message):
    models = dict(federate().models)
    models["mallory"] = replace(models["mallory"], **change)
    with pytest.raises(error, match=message):
        federate(models).run()


def test_two_clients_of_one_name_are_an_error(federate):
    federation = federate()
    federation.channel.tamper = lambda asked, reply: encode_reply(
        replace(decode_reply(reply, max_bytes=ALWAYS), client="bob")
    )
    with pytest.raises(PeerError, match="two clients are called 'bob', expected different names"):
        federation.run()


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (RefusalReason.BASE_MISMATCH, BaseMismatchError),
        (RefusalReason.TOO_LITTLE_DATA, DataError),
        (RefusalReason.SPEC_MISMATCH, PeerError),
    ],
)
def test_a_client_that_refuses_to_take_part_says_whose_fault_it_is(federate, reason, error):
    federation = federate()
    federation.channel.tamper = lambda asked, reply: encode_reply(Refusal(asked.client, reason, "what is wrong"))
    with pytest.raises(error, match="what is wrong"):
        federation.run()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"junk", "node 102: reply of 4 bytes cannot be read"),
        (encode_reply(UpdateReply(b"")), "node 102 answered with UpdateReply, expected a description of itself"),
    ],
)
def test_a_node_that_cannot_describe_itself_does_not_count(federate, reply, reason):
    federation = federate(clients=2)
    federation.channel.tamper = lambda asked, honest: reply if asked.client == "mallory" else honest
    federation.run()
    assert {name for event in federation.of_kind("round_started") for name in event["cohort"]} == {"alice", "bob"}
    federation = federate(clients=3)
    federation.channel.tamper = lambda asked, honest: reply if asked.client == "mallory" else honest
    with pytest.raises(PeerError, match=f"2 clients answered, expected 3: {reason}"):
        federation.run()


def test_missing_clients_are_counted_in_the_ledger_before_they_are_waited_for(federate):
    federation = federate()
    channel = federation.channel
    channel.open_ended = True
    channel.gone.add(next(iter(channel.participants)))

    def nodes(at_least):
        if at_least:  # waits, and somebody comes
            channel.gone.clear()
        return [node for node in channel.participants if node not in channel.gone]

    channel.nodes = nodes
    federation.run()
    (event,) = federation.of_kind("waiting_for_clients")
    assert (event["here"], event["wanted"]) == (2, 3)
