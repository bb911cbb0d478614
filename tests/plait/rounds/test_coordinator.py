import itertools
from dataclasses import replace

import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.errors import PeerError, RunInterrupted
from plait.rounds.channel import Purpose
from plait.rounds.participant import Participant
from plait.rounds.run_state import sample_cohort
from plait.rounds.spool import Spool, Weighting
from plait.rounds.validate import NormBound
from plait.v1 import envelope_pb2 as pb
from plait.wire.codecs import codec_for
from plait.wire.encoding import encode_delta
from plait.wire.envelope import join_frame, open_envelope, payload_digest, read_header, seal, split_frame
from plait.wire.messages import (
    Evaluation,
    Refusal,
    RefusalReason,
    UpdateReply,
    decode_reply,
    decode_task,
    encode_reply,
)

ALWAYS = 1 << 30


def asked_for_more(federation):
    """Answers that said what a broadcast builds on is not held."""
    return [event for event in federation.of_kind("reply_received") if event["purpose"] == "need-full"]


def dense_fedavg(federation):
    """FedAvg in float64, without any wire."""
    plan, values = federation.plan, federation.initial.flat.astype(np.float64)
    for number in range(1, plan.rounds + 1):
        cohort = sample_cohort(list(federation.models), plan.cohort_size, seed=plan.seed, round_number=number)
        equal = plan.weighting is Weighting.EQUAL
        weights = np.array([1 if equal else federation.models[name].train_examples for name in cohort], np.float64)
        deltas = [federation.train_alone(name, values, number) - values for name in cohort]
        values = values + weights @ np.array(deltas) / weights.sum()
    return values


def read_task(federation, asked):
    return decode_task(asked.task, max_bytes=ALWAYS, held=lambda _: federation.plan.settings.text)


def broadcast_header(federation, asked):
    return read_header(read_task(federation, asked).broadcast, max_bytes=ALWAYS)


# What a run computes


@pytest.mark.parametrize("plan", [{}, {"weighting": Weighting.EQUAL}, {"cohort_size": 2}])
def test_the_result_is_the_weighted_mean_of_float64_maths_also_where_clients_missed_rounds(
    federate, fake_model, everyone_holds, plan
):
    federation = federate(crowd(fake_model, 5), rounds=4, **plan)
    state = federation.run()
    assert not federation.of_kind("update_refused")
    np.testing.assert_allclose(state.adapter.flat, dense_fedavg(federation), rtol=0, atol=1e-6)
    np.testing.assert_allclose(state.shadow.flat, state.adapter.flat, rtol=0, atol=1e-6)
    everyone_holds(federation, state)


@pytest.mark.slow
def test_the_result_does_not_depend_on_who_answers_first(federate, everyone_holds):
    results = set()
    for order in itertools.permutations(range(3)):
        federation = federate()
        federation.channel.order = lambda nodes, order=order: [nodes[i] for i in order if i < len(nodes)]
        state = federation.run()
        results.add((state.adapter.digest(), state.shadow.digest()))
    assert len(results) == 1


@pytest.mark.slow
def test_over_a_lossy_wire_both_ends_hold_the_same_and_nothing_that_was_dropped_is_lost(federate, everyone_holds):
    federation = federate(bits="bf16", rounds=5)
    state = federation.run()

    def rounded(values):
        return encode_delta(AdapterState(state.adapter.layout, values), codec_for("bf16")).delta.flat

    master = shadow = federation.initial.flat
    names = sorted(federation.models)
    weights = np.array([federation.models[name].train_examples for name in names], np.float64)
    owed = {name: np.zeros_like(master) for name in names}
    for number in range(1, 6):
        deltas = []
        for name in names:
            wanted = (federation.train_alone(name, shadow, number) - shadow) + owed[name]
            deltas.append(rounded(wanted))
            owed[name] = wanted - deltas[-1]
        # In client order, one product after the other, as the ledger's digests promise.
        step = sum((w * d.astype(np.float64) for w, d in zip(weights, deltas, strict=True)), np.zeros(len(shadow)))
        master = master + (step / weights.sum()).astype(np.float32)
        shadow = shadow + rounded(master - shadow)
    np.testing.assert_array_equal(state.adapter.flat, master)
    np.testing.assert_array_equal(state.shadow.flat, shadow)
    assert (state.adapter.flat != state.shadow.flat).any()
    assert all(dropped.any() for dropped in owed.values())
    everyone_holds(federation, state)


def test_where_few_take_part_no_client_is_sent_a_whole_adapter(federate, fake_model, everyone_holds):
    federation = federate(
        {name: fake_model(i - 2.0, 1 + i) for i, name in enumerate("abcdefgh")},
        rounds=4,
        cohort_size=2,
        eval_every=2,
        bits="1",
    )

    def forget(asked):
        if (asked.purpose, asked.round) == (Purpose.TRAIN, 3):
            federation.memories[asked.client].clear()

    federation.channel.before = forget
    state = federation.run()
    everyone_holds(federation, state)
    sent = [
        broadcast_header(federation, ask) for ask in federation.channel.asked if ask.purpose is not Purpose.DESCRIBE
    ]
    initial = federation.ranks.master.initial.digest()
    assert all(header.relative_to in (initial, header.result_digest) for header in sent)
    lacking = asked_for_more(federation)
    assert [event["round"] for event in lacking] == [3, 3]


# What travels


def test_every_byte_is_in_the_ledger(federate):
    federation = federate()
    sent = []

    def count(asked, reply):
        sent.append(len(reply))
        return reply

    federation.channel.tamper = count
    federation.run()
    assert sum(event["downlink_bytes"] for event in federation.of_kind("broadcast")) == sum(
        len(asked.task) for asked in federation.channel.asked
    )
    for event in federation.of_kind("broadcast"):
        if event["purpose"] != "describe":
            news = event["codec"] == "fp32"
            assert event["payload_bytes"] == (4 * federation.spec.layout.size if news else 0)
            assert event["bits_per_parameter"] == (32 if news else 0)
            assert event["payload_bytes"] < event["envelope_bytes"] < event["downlink_bytes"]
    uplink = federation.of_kind("update_received", "reply_received", "update_refused")
    assert sum(event["uplink_bytes"] for event in uplink) == sum(sent)


@pytest.mark.parametrize("purpose", [Purpose.TRAIN, Purpose.EVALUATE])
def test_a_client_that_lost_its_memory_is_sent_everything_within_the_same_round(federate, everyone_holds, purpose):
    untouched = federate().run()
    federation = federate()

    def tasks_for_bob():
        return [a for a in federation.channel.asked if (a.client, a.purpose, a.round) == ("bob", purpose, 2)]

    def forget(asked):
        if tasks_for_bob() == [asked]:
            federation.memories["bob"].clear()

    federation.channel.before = forget
    state = federation.run()
    assert state.adapter.digest() == untouched.adapter.digest()
    everyone_holds(federation, state)
    (lacking,) = asked_for_more(federation)
    assert (lacking["client"], lacking["round"]) == ("bob", 2)
    assert not federation.of_kind("update_refused")
    assert [bool(broadcast_header(federation, asked).spec_json) for asked in tasks_for_bob()] == [False, True]
    assert [b'"seq_len"' in asked.task for asked in tasks_for_bob()] == [False, True]


# Losses


def test_an_evaluation_that_cannot_be_is_left_out_of_the_mean(federate):
    federation = federate(rounds=1)

    def tamper(asked, reply):
        if asked.purpose is Purpose.EVALUATE and asked.client == "mallory":
            return encode_reply(replace(decode_reply(reply, max_bytes=ALWAYS), client="bob"))
        return reply

    federation.channel.tamper = tamper
    federation.run()
    assert {event["reason"] for event in federation.of_kind("update_refused")} == {"wrong-client"}
    assert all(set(event["by_client"]) == {"alice", "bob"} for event in federation.of_kind("evaluated"))


# Clients that misbehave


def opened_update(reply):
    update = decode_reply(reply, max_bytes=ALWAYS).update
    # Exact float32 on the wire: four bytes a number, whatever the tensors are called.
    return open_envelope(update, layout=Layout.of({"all": [len(split_frame(update).payload) // 4]}))


def resealed(reply, **changes):
    """A client's update with another header, and digests to match."""
    opened = opened_update(reply)
    encoded = encode_delta(opened.delta, codec_for("fp32"))
    return encode_reply(UpdateReply(seal(replace(opened.header, **changes), encoded).data))


def of_numbers(reply, value):
    """A client's update of this number alone."""
    update = decode_reply(reply, max_bytes=ALWAYS).update
    payload = np.full(len(split_frame(update).payload) // 4, value, "<f4").tobytes()
    header = pb.Header.FromString(bytes(split_frame(update).header))
    header.payload_digest = payload_digest(header.codec, header.codec_parameters, payload)
    return encode_reply(UpdateReply(join_frame(header.SerializeToString(deterministic=True), payload)))


MISBEHAVIOUR = {
    "no answer": (lambda reply: "node 102 is gone", "no-answer"),
    "garbage": (lambda reply: b"\xff\xfe garbage", "malformed"),
    "too large": (lambda reply: bytes(1 << 22), "malformed"),
    "another kind of answer": (
        lambda reply: encode_reply(Evaluation("mallory", 2, 1.0, 40, None, 4)),
        "malformed",
    ),
    "another's name": (lambda reply: resealed(reply, client="bob"), "wrong-client"),
    "an earlier round": (lambda reply: resealed(reply, round=1), "wrong-round"),
    "another run": (lambda reply: resealed(reply, run_id=b"R" * 16), "wrong-run"),
    "another base": (lambda reply: resealed(reply, base_fingerprint=b"g" * 32), "wrong-base"),
    "another starting point": (lambda reply: resealed(reply, relative_to=b"a" * 32), "wrong-reference"),
    "numbers without end": (lambda reply: of_numbers(reply, np.inf), "malformed"),
    "numbers near the end": (lambda reply: of_numbers(reply, 3e38), "overflow"),
    "a refusal": (lambda reply: encode_reply(Refusal("mallory", RefusalReason.FAILED, "no")), "failed"),
    "need-full for ever": (lambda reply: encode_reply(Refusal("mallory", RefusalReason.NEED_FULL, "?")), "need-full"),
}


def distorted(federation, distort):
    """The adapter of a run in whose round 2 this became of mallory's reply."""
    federation.channel.tamper = lambda asked, reply: (
        distort(reply) if (asked.client, asked.purpose, asked.round) == ("mallory", Purpose.TRAIN, 2) else reply
    )
    return federation.run().adapter.digest()


@pytest.mark.parametrize("misbehaviour", MISBEHAVIOUR)
def test_a_misbehaving_client_is_refused_and_changes_nothing(federate, misbehaviour):
    distort, reason = MISBEHAVIOUR[misbehaviour]
    federation = federate()
    adapter = distorted(federation, distort)
    assert adapter == distorted(federate(), lambda reply: "silent")
    refusals = federation.of_kind("update_refused")
    assert {(event["client"], event["round"], event["reason"]) for event in refusals} == {("mallory", 2, reason)}
    assert len(refusals) == 1
    # It is sent what leads from what it holds, from the initial adapter, and the whole.
    assert len(asked_for_more(federation)) == (2 if reason == "need-full" else 0)
    last = federation.of_kind("round_finished")[-1]
    assert (last["received"], last["refused"]) == (2, 1)


def test_a_client_that_answers_twice_is_heard_once(federate, monkeypatch):
    federation = federate()
    exchange = type(federation.channel.exchange(Purpose.TRAIN, "1"))
    receive = exchange.receive

    def twice(exchange, timeout_s):
        if again := exchange.__dict__.pop("again", None):
            return again
        answer = receive(exchange, timeout_s)
        if exchange.purpose is not Purpose.DESCRIBE:
            exchange.again = answer
        return answer

    monkeypatch.setattr(exchange, "receive", twice)
    federation.run()
    received = [(event["round"], event["client"]) for event in federation.of_kind("update_received")]
    assert len(received) == len(set(received)) == 6


# Rounds in the real world


def crowd(fake_model, count=6):
    return {f"client-{i}": fake_model(i - 2.0, 1 + i) for i in range(count)}


def trained(federation, number):
    return {ask.client for ask in federation.channel.asked if (ask.purpose, ask.round) == (Purpose.TRAIN, number)}


def test_a_client_that_fails_is_replaced_while_there_is_time(federate, fake_model):
    federation = federate(crowd(fake_model), cohort_size=3, rounds=1)
    federation.channel.tamper = lambda asked, reply: (
        "gone" if asked.purpose is Purpose.TRAIN and len(trained(federation, 1)) <= 2 else reply
    )
    federation.run()
    (finished,) = federation.of_kind("round_finished")
    assert finished["received"] == 3
    assert len(trained(federation, 1)) == 5
    replaced = federation.of_kind("client_replaced")
    assert {event["client"] for event in replaced} | {event["by"] for event in replaced} <= trained(federation, 1)
    assert len(replaced) == 2


def test_a_straggler_is_late_and_the_round_goes_on_at_its_quorum(federate, fake_model):
    federation = federate(crowd(fake_model, 4), rounds=2, quorum=3, deadline_s=0.05)
    federation.channel.silent = lambda asked: (asked.client, asked.purpose) == ("client-2", Purpose.TRAIN)
    federation.run()
    assert [(event["client"], event["reason"]) for event in federation.of_kind("update_refused")] == [
        ("client-2", "late"),
        ("client-2", "late"),
    ]
    assert [event["received"] for event in federation.of_kind("round_finished")] == [3, 3]


def test_a_round_below_its_quorum_is_tried_again_with_what_it_has_and_then_ends_the_run(federate, fake_model):
    federation = federate(crowd(fake_model, 4), rounds=1, quorum=4, deadline_s=0.05, attempts=3)
    federation.channel.open_ended = True
    federation.channel.silent = lambda asked: (
        (asked.client, asked.purpose) == ("client-2", Purpose.TRAIN) and len(federation.of_kind("round_missed")) < 2
    )
    state = federation.run()
    assert [event["received"] for event in federation.of_kind("round_missed")] == [3, 3]
    assert state.adapter.digest() == federate(crowd(fake_model, 4), rounds=1).run().adapter.digest()
    asked = [ask.client for ask in federation.channel.asked if ask.purpose is Purpose.TRAIN]
    assert sorted(asked) == sorted(set(asked))
    federation = federate(crowd(fake_model, 4), quorum=4, deadline_s=0.01, attempts=2)
    federation.channel.silent = lambda asked: (asked.client, asked.purpose) == ("client-2", Purpose.TRAIN)
    with pytest.raises(PeerError, match="round 1 got 3 usable updates from its 4 clients; the quorum is 4"):
        federation.run()


@pytest.mark.parametrize(("astray", "loads"), [((), False), ((2,), True)])
def test_a_waiting_server_decodes_updates_once_where_all_that_came_count(
    federate, fake_model, monkeypatch, astray, loads
):
    """And folds them in whatever order to the same bits, figures included."""
    models = {**crowd(fake_model, 5), "client-5": fake_model(1.0, 4, astray=astray)}
    plan = {"rounds": 3, "weighting": Weighting.EQUAL, "norm_bound": NormBound(factor=2.0)}
    apart, waiting = federate(models, **plan), federate(models, **plan)
    waiting.channel.open_ended, waiting.channel.order = True, lambda nodes: sorted(nodes, reverse=True)
    expected, loaded = apart.run(), []
    monkeypatch.setattr(Spool, "load", lambda *args, load=Spool.load: loaded.append(args[1]) or load(*args))
    assert waiting.run().adapter.digest() == expected.adapter.digest()
    assert set(loaded) == ({2} if loads else set())
    assert [event["diagnostics"] for event in waiting.of_kind("round_finished")] == [
        event["diagnostics"] for event in apart.of_kind("round_finished")
    ]


def test_clients_come_and_go_between_rounds(federate, fake_model):
    federation = federate(crowd(fake_model, 4), rounds=3, clients=3, cohort_size=4)
    federation.channel.open_ended = True
    federation.channel.gone.add(federation.node("client-3"))

    def move(asked):
        if (asked.purpose, asked.round) == (Purpose.EVALUATE, 1):
            federation.channel.gone.clear()
        if (asked.purpose, asked.round) == (Purpose.EVALUATE, 2):
            federation.channel.gone.add(federation.node("client-0"))

    federation.channel.before = move
    federation.run()
    assert [trained(federation, number) for number in (1, 2, 3)] == [
        {"client-0", "client-1", "client-2"},
        {"client-0", "client-1", "client-2", "client-3"},
        {"client-1", "client-2", "client-3"},
    ]
    described = [[entry["client"] for entry in event["clients"]] for event in federation.of_kind("clients_described")]
    assert described == [["client-0", "client-1", "client-2"], ["client-3"]]


def test_a_client_that_came_back_with_other_data_is_described_anew(federate, fake_model):
    federation = federate(crowd(fake_model, 3), rounds=3, quorum=2)
    federation.channel.open_ended = True

    def swap(asked):
        if (asked.purpose, asked.round) == (Purpose.EVALUATE, 1) and asked.client == "client-1":
            other = replace(federation.models["client-1"], train_examples=50)
            node, memory = federation.node("client-1"), federation.memories["client-1"]
            federation.channel.participants[node] = Participant("client-1", other, memory)

    federation.channel.before = swap
    federation.run()
    assert [(event["round"], event["reason"]) for event in federation.of_kind("update_refused")] == [(2, "weight")]
    assert [event["received"] for event in federation.of_kind("round_finished")] == [3, 2, 3]


def test_a_node_with_a_key_must_sign_its_updates(federate):
    federation = federate()
    federation.sign({"alice": federation.keys["alice"], "bob": federation.keys["mallory"], "mallory": None})
    federation.run()
    assert {event["client"] for event in federation.of_kind("update_received")} == {"alice"}
    refused = {(event["client"], event["reason"]): event["detail"] for event in federation.of_kind("update_refused")}
    assert refused[("bob", "signature")] == "signature on the update of 'bob' is not its key's"
    assert refused[("mallory", "signature")] == "update of 'mallory' is not signed by its key"


def test_only_as_many_clients_evaluate_as_are_asked_for_and_always_the_same(federate, fake_model):
    federation = federate(crowd(fake_model, 5), rounds=3, eval_clients=2)
    federation.run()
    cohorts = {tuple(event["by_client"]) for event in federation.of_kind("evaluated")}
    assert len(cohorts) == 1
    assert len(cohorts.pop()) == 2


def test_a_restarted_server_sends_the_same_task_to_who_evaluated_before(federate, fake_model):
    federation = federate(crowd(fake_model, 2), rounds=2)
    federation.channel.open_ended = True

    def stop(asked):
        if (asked.purpose, asked.round) == (Purpose.TRAIN, 2):
            raise RunInterrupted("stopped")

    federation.channel.before = stop
    with pytest.raises(RunInterrupted):
        federation.run()
    federation.channel.before = lambda asked: None
    federation.run()
    tasks = {
        (ask.client, ask.task) for ask in federation.channel.asked if (ask.purpose, ask.round) == (Purpose.TRAIN, 2)
    }
    assert len(tasks) == 2
