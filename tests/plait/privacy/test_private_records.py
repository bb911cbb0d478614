"""A run with private records: what each client spends, says and refuses, and what no kill changes about that."""

import json
from dataclasses import replace

import pytest

from plait.cli.privacy import check_privacy
from plait.errors import PeerError
from plait.ledger.events import RoundFinished, UpdateReceived
from plait.ledger.ledger import read_events
from plait.ledger.privacy import PrivacySpent
from plait.privacy.client import KEY, charge, privacy_of
from plait.rounds.channel import Purpose
from plait.rounds.client_pipeline import PlainSender
from plait.wire.envelope import EPSILON, read_envelope
from plait.wire.messages import ClientCard, EvaluateTask, Refusal, UpdateReply, decode_reply, decode_task, encode_task
from tests.killing import different_stories
from tests.plait.privacy.test_private_rounds import FORBIDDEN

pytestmark = pytest.mark.slow  # accounting for samples of records takes seconds

SETTINGS = {"record_delta": 1e-5, "record_epsilon": 8.0, "total_steps": 4}
RUN = b"r" * 16
CASES = {
    "one bit and moments": {"bits": "1", "settings": {**SETTINGS, "carry_moments": True}},
    "fedsvd": {"rule": "fedsvd", "bits": "fp32", "settings": SETTINGS},
    "median": {"rule": "median", "bits": "fp32", "settings": SETTINGS},
}


@pytest.fixture
def begin(federate, fake_model):
    def make(case="one bit and moments", **more):
        options = {**CASES[case], **more}
        return federate({"alice": fake_model(1, 30), "bob": fake_model(4, 70)}, **options)

    return make


def account(federation, name):
    return json.loads(federation.memories[name][KEY])


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_killed_anywhere_goes_on_to_the_same_bits_and_no_client_pays_twice(begin, snapshots_of, case):
    snapshots = snapshots_of(begin(case))
    expected = snapshots.run()
    assert len(snapshots.killed) > 25
    for where, killed in snapshots.killed:
        # A client that has not begun has no secret yet, so that its noise is another one.
        has_begun = all(KEY in memory for memory in killed.memories.values())
        state = killed.run()
        assert state.adapter.digest() == expected.adapter.digest() or not has_begun, where
        for name in killed.models:
            assert [*account(killed, name)["charges"].values()] == [2, 2], where
        spent = check_privacy(read_events(killed.path / "ledger.jsonl"))
        assert spent.by_client.keys() == {"alice", "bob"}, where
        assert all(7.5 < epsilon <= 8 for epsilon in spent.by_client.values()), where
        assert not has_begun or not different_stories(killed.events, snapshots.federation.events), where


def test_what_was_paid_is_on_disk_before_a_step_is_taken(begin, fake_model, monkeypatch):
    federation = begin()
    paid = []
    train = fake_model.train

    def watched(self, job):
        name = next(name for name, model in federation.models.items() if model is self)
        paid.append((name, sum(account(federation, name)["charges"].values()), job.charge.key))
        return train(self, job)

    monkeypatch.setattr(fake_model, "train", watched)
    federation.run()
    assert [(name, steps) for name, steps, _ in paid] == [("alice", 2), ("bob", 2), ("alice", 4), ("bob", 4)]
    assert len({key for _, _, key in paid}) == 4


def test_no_client_is_asked_for_losses_and_all_that_clients_send_or_a_ledger_keeps_has_noise(begin):
    federation = begin()
    replies = []
    federation.channel.tamper = lambda asked, reply: replies.append(decode_reply(reply, max_bytes=1 << 20)) or reply
    federation.run()
    assert {asked.purpose for asked in federation.channel.asked} == {Purpose.DESCRIBE, Purpose.TRAIN}
    cards = [reply for reply in replies if isinstance(reply, ClientCard)]
    assert len(cards) == 2
    for card in cards:
        counts = (card.train_examples, card.train_tokens, card.held_out_examples, card.held_out_tokens)
        assert (*counts, card.cut_examples, card.left_out_examples, dict(card.histogram)) == (0, 0, 0, 0, 0, 0, {})
    updates = [reply.update for reply in replies if isinstance(reply, UpdateReply)]
    assert len(updates) == 4
    for update in updates:
        header = read_envelope(update, max_bytes=len(update)).header
        assert [*header.metrics] == [EPSILON]
        assert header.examples == 0
    for event in federation.events[1:]:
        for key in FORBIDDEN - {"digest", "norms", "signed", "signature", "diagnostics", "by_client"}:
            assert not event.get(key), event
    received = federation.of_kind("update_received")
    assert all(event["uplink_bytes"] > 0 and event["digest"] and event["epsilon"] > 0 for event in received)


def test_losses_that_a_server_asks_for_are_refused_and_a_refusal_tells_nothing(begin, fake_model):
    federation = begin()
    federation.run()
    asked = next(asked for asked in federation.channel.asked if asked.purpose is Purpose.TRAIN)
    node = next(node for node, name in federation.channel.names.items() if name == asked.client)
    participant = federation.channel.participants[node]
    held = participant.settings_text
    task = decode_task(asked.task, max_bytes=1 << 20, held=held)
    evaluate = b"".join(encode_task(EvaluateTask(replace(task.settings, round=0), task.broadcast)))
    answer = decode_reply(participant.answer(evaluate), max_bytes=1 << 20)
    assert isinstance(answer, Refusal)
    assert (answer.reason.name, answer.detail) == ("POLICY", "this client's log has the reason")
    assert participant.refusal == "evaluation refused: only noised values leave this client"
    # Another data set under the same name: how many records there are now is said to the client's operator alone.
    participant.model = replace(federation.models[asked.client], train_examples=123)
    answer = decode_reply(participant.answer(asked.task), max_bytes=1 << 20)
    assert (answer.reason.name, answer.detail) == ("POLICY", "this client's log has the reason")
    assert participant.refusal.startswith("records: 123, expected 30")


def test_a_server_that_asks_again_from_another_adapter_pays_or_gets_nothing(begin):
    """Its budget spent on other inputs, a client takes no further part; the run goes on without it."""
    federation = begin(quorum=1)
    memory = federation.memories["bob"]
    settings = replace(federation.plan.settings)
    privacy = privacy_of(settings, records=70)
    assert privacy.epsilon_after(4) <= 8 < privacy.epsilon_after(6)
    for other in (b"one", b"other"):
        charge(memory, privacy, run_id=RUN, inputs=other, steps=1)
    federation.run()
    # 1 + 1 + 2 steps fit, and another two do not.
    assert sorted(account(federation, "bob")["charges"].values()) == [1, 1, 2]
    assert [event["client"] for event in federation.of_kind("update_received")] == ["alice", "bob", "alice"]
    (refused,) = federation.of_kind("update_refused")
    assert (refused["round"], refused["client"], refused["reason"]) == (2, "bob", "policy")
    assert not refused["detail"]
    assert federation.of_kind("privacy_spent")[-1]["by_client"]["bob"] == pytest.approx(privacy.epsilon_after(4))


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({EPSILON: 8.1}, f"{EPSILON} is 8.1, expected 0 to 8"),
        ({}, "update reports nothing of its training"),
        ({EPSILON: 1.0, "train_loss": 2.0}, f"reports {EPSILON}, train_loss of its training"),
    ],
)
def test_an_update_that_says_too_little_or_too_much_does_not_count(begin, monkeypatch, said, complaint):
    federation = begin(quorum=1, rounds=1)
    seen = []
    log = federation._coordinator

    def listening(*args):
        made = log(*args)
        made._log.refusal = lambda number, client, reason, detail, **rest: seen.append((reason, detail))
        return made

    federation._coordinator = listening
    real = PlainSender.update

    def update(self, job, outgoing):
        return real(self, job, replace(outgoing, metrics=said) if job.client == "bob" else outgoing)

    monkeypatch.setattr(PlainSender, "update", update)
    federation.run()
    ((reason, detail),) = seen
    assert reason == "figure"
    assert complaint in detail


def test_a_ledger_whose_epsilons_are_not_those_of_its_updates_is_refused(begin):
    federation = begin()
    federation.run()
    events = read_events(federation.path / "ledger.jsonl")
    assert check_privacy(events).epsilon <= 8

    def changed(kind, **fields):
        return [event.model_copy(update=fields) if isinstance(event, kind) else event for event in events]

    for made, complaint in (
        (changed(UpdateReceived, epsilon=None), "is missing: every update must state it"),
        (changed(UpdateReceived, epsilon=9.0), "is 9, expected at most 8"),
        (changed(PrivacySpent, by_client={"alice": 0.1}), "epsilons of clients after round 1 are not those of"),
        (changed(PrivacySpent, epsilon=0.1), r"epsilon of round 1 is 0\.1, expected"),
        (changed(PrivacySpent, delta=0.1), r"delta of round 1 is 0\.1, expected 1e-05"),
        ([event for event in events if not isinstance(event, PrivacySpent)], "round 1 is finished, but its cost is"),
    ):
        with pytest.raises(PeerError, match=complaint):
            check_privacy(made)
    falling = [
        event.model_copy(update={"epsilon": 0.1}) if isinstance(event, UpdateReceived) and event.round == 2 else event
        for event in events
    ]
    with pytest.raises(PeerError, match="expected no less than"):
        check_privacy(falling)
    assert any(isinstance(event, RoundFinished) for event in events)
