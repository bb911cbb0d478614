"""A run of which the server sees sums alone: what it learns, whom it can lose, and what no kill can change about it."""

import json
import shutil

import numpy as np
import pytest

from plait.adapters import subtract
from plait.errors import DataError, PeerError
from plait.rounds.channel import Purpose
from plait.rounds.client_pipeline import ClientContext
from plait.rounds.data_journal import ClientSecret
from plait.rounds.run_directory import RunDirectory
from plait.rounds.terms import TaskHistory
from plait.secagg.masking import UnderMasks
from plait.secagg.rounds import MaskedRounds
from plait.secagg.sums import MaskedGrid, Summed, sum_file
from plait.trust.keys import NodeIdentity, NodeKey
from plait.wire.masked_messages import Delivery, MaskedReply, MaskingTask, Ready, Signed, Survivors, Unmasking
from plait.wire.masked_roster import MaskedAttempt
from plait.wire.messages import ClientCard, Refusal, decode_reply, decode_task, encode_reply
from tests.killing import different_stories

SEED = 11
NAMES = ["alice", "bob", "carol", "dave", "erin"]
STAGES = {"keys": type(None), "shares": "Roster", "delivery": Delivery, "signatures": Survivors, "unmasking": Unmasking}


def begin(federate, fake_model, count=5, **more):
    models = {name: fake_model(float(place), 3 + place) for place, name in enumerate(NAMES[:count])}
    return federate(models, masked=True, **more)


def task_of(asked):
    return decode_task(asked.task, max_bytes=len(asked.task))


def stage_of(asked):
    """The stage of a task of a masked sum; its purpose for any other."""
    if asked.purpose is not Purpose.MASK:
        return asked.purpose.value
    kind = type(task_of(asked).stage)
    return next(name for name, stage in STAGES.items() if stage in (kind, kind.__name__))


def summed(federation, number, purpose="train"):
    return Summed.from_bytes(RunDirectory.find(federation.path).load_update(number, sum_file(purpose)))


@pytest.fixture
def sent(monkeypatch):
    """The whole numbers of every client, by round and name, before any mask."""
    found = {}
    rounded = MaskedGrid.rounded

    def watched(self, delta):
        numbers, arrived = rounded(self, delta)
        secrets = {name: ClientSecret.simulated(SEED, name) for name in NAMES}
        (client,) = (name for name in NAMES if secrets[name].rounding(self.round, self.received) == self.key)
        found[self.round, client] = numbers
        return numbers, arrived

    monkeypatch.setattr(MaskedGrid, "rounded", watched)
    return found


@pytest.mark.slow
def test_masked_rounds_lead_where_plain_ones_do(federate, fake_model):
    federation = begin(federate, fake_model, rounds=6)
    plain = federate(federation.models, rounds=6, weighting=federation.plan.weighting)
    masked, exact = federation.run().adapter, plain.run().adapter
    way = subtract(exact, plain.initial).flat
    error = np.linalg.norm(masked.flat - exact.flat) / np.linalg.norm(way)
    assert error < 0.2
    losses = [[event["loss"] for event in each.of_kind("evaluated")] for each in (federation, plain)]
    # Before round 1 the losses are the same: only their sum travels, and the mean is exact.
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
    assert losses[0][-1] == pytest.approx(losses[1][-1], rel=0.1)


@pytest.mark.slow
def test_the_server_learns_no_figure_of_a_client(federate, fake_model):
    federation = begin(federate, fake_model)
    replies = []
    federation.channel.tamper = lambda asked, reply: replies.append((asked, reply)) or reply
    federation.run()
    for asked, raw in replies:
        reply = decode_reply(raw, max_bytes=len(raw))
        if asked.purpose is Purpose.DESCRIBE:
            assert isinstance(reply, ClientCard)
            assert (reply.train_examples, reply.train_tokens, reply.held_out_examples) == (0, 0, 0)
            assert not reply.histogram
        else:
            assert isinstance(reply, MaskedReply)
    of_clients = ("loss", "tokens", "examples", "norms", "digest", "learning_rate")
    for event in federation.of_kind("update_received", "clients_described"):
        for each in event.get("clients", [event]):
            assert not any(each.get(name) for name in of_clients), each
    for event in federation.of_kind("evaluated"):
        assert not event.get("by_client")
        assert not event["own"]["by_client"] if event.get("own") else True
    sizes = {event["uplink_bytes"] for event in federation.of_kind("update_received") if event["round"] == 2}
    assert len(sizes) <= len({len(name) for name in NAMES})  # by the client's name alone


@pytest.mark.slow
@pytest.mark.parametrize("how", ["silent", "wrong", "of another kind"])
@pytest.mark.parametrize("stage", [*STAGES, "train"])
def test_a_client_that_is_lost_at_any_stage_does_not_stop_the_round(federate, fake_model, sent, stage, how):
    federation = begin(federate, fake_model, keep_updates=True)

    def is_hit(asked):
        return asked.client == "carol" and asked.round == 2 and stage_of(asked) == stage

    if how == "silent":
        federation.channel.silent = is_hit
    else:
        other = MaskedReply("carol", Ready() if stage == "signatures" else Signed(bytes(64)))
        bad = {"wrong": lambda reply: reply[:-1], "of another kind": lambda _: encode_reply(other)}[how]
        federation.channel.tamper = lambda asked, reply: bad(reply) if is_hit(asked) else reply
    federation.run()
    is_in = stage in ("signatures", "unmasking")
    left = [name for name in NAMES if name != "carol" or is_in]
    stored = summed(federation, 2)
    assert list(stored.clients) == left
    np.testing.assert_array_equal(stored.numbers, sum(sent[2, name] for name in left))
    assert any(event["client"] == "carol" for event in federation.of_kind("update_refused"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*STAGES, "train"])
def test_too_few_clients_end_an_attempt_and_not_the_run(federate, fake_model, sent, stage):
    """Three of five fail once at a stage; whatever was begun, the next attempt takes the same sum."""
    federation = begin(federate, fake_model, keep_updates=True, attempts=2)
    failed, rosters = set(), []

    def is_hit(asked):
        hit = asked.round == 2 and stage_of(asked) == stage and asked.client in NAMES[2:] and asked.client not in failed
        if hit:
            failed.add(asked.client)
        return hit

    def fail(asked, reply):
        if asked.purpose is Purpose.MASK and asked.round == 2:
            rosters.append((task_of(asked).session.purpose, task_of(asked).session.attempt))
        return reply[:-1] if is_hit(asked) else reply

    federation.channel.tamper = fail
    federation.run()
    assert [(event["round"], event["attempt"]) for event in federation.of_kind("round_missed")] == [(2, 1)]
    stored = summed(federation, 2)
    assert list(stored.clients) == NAMES
    np.testing.assert_array_equal(stored.numbers, sum(sent[2, name] for name in NAMES))
    # Once shares were asked for, the same attempt goes on; before, other keys are used.
    assert len({attempt for purpose, attempt in rosters if purpose == "train"}) == (1 if stage == "unmasking" else 2)


def test_a_round_that_never_has_enough_fails_and_may_be_continued(federate, fake_model, sent):
    federation = begin(federate, fake_model, keep_updates=True, attempts=3)

    def is_hit(asked):
        return asked.round > 1 and asked.client in NAMES[3:] and stage_of(asked) == "keys"

    federation.channel.silent = is_hit
    with pytest.raises(PeerError, match="round 2 ended without a sum in 3 attempts: 3 clients offered keys"):
        federation.run()
    assert [event["received"] for event in federation.of_kind("round_missed")] == [3, 3, 3]
    federation.channel.silent = lambda asked: False
    federation.run()
    np.testing.assert_array_equal(summed(federation, 2).numbers, sum(sent[2, name] for name in NAMES))


@pytest.mark.slow
def test_a_client_that_lost_its_journal_is_a_dropout_of_its_round_alone(federate, fake_model):
    federation = begin(federate, fake_model, keep_updates=True)

    def lose(asked):
        if asked.client == "carol" and asked.round == 1 and stage_of(asked) == "signatures":
            federation.memories["carol"].pop("secagg")

    federation.channel.before = lose
    federation.run()
    lost = [event for event in federation.of_kind("update_refused") if event["client"] == "carol"]
    assert {(event["round"], event["stage"]) for event in lost} == {(1, "signatures")}
    assert list(summed(federation, 2).clients) == NAMES


def test_a_client_without_a_journal_unmasks_no_round_that_it_was_asked_for(federate, fake_model):
    """Without it no one knows what it has revealed; that it was asked stands elsewhere."""
    memory = begin(federate, fake_model).memories["alice"]
    run_id = bytes(range(16))
    asked = TaskHistory(run_id.hex(), {"TrainTask": 3, "EvaluateTask": 2})
    memory.save("asked", json.dumps({**vars(asked)}).encode())
    key = NodeKey.generate()
    identity = NodeIdentity(key.public_bytes, key.sign, lambda offer: True)
    masking = UnderMasks(ClientContext("alice", memory, identity=lambda: identity), MaskedRounds(3, 1.0))
    for purpose, number in (("train", 3), ("evaluate", 2), ("train", 1)):
        with pytest.raises(PeerError, match="was unmasked before"):
            masking.answer(MaskingTask(MaskedAttempt(run_id, purpose, number, b"a" * 16)))
    for purpose, number in (("train", 4), ("evaluate", 3)):
        masking.answer(MaskingTask(MaskedAttempt(run_id, purpose, number, b"b" * 16)))


@pytest.mark.slow
def test_a_masked_run_killed_anywhere_goes_on_to_the_same_bits(federate, fake_model, snapshots_of):
    federation = begin(federate, fake_model, 3)
    snapshots = snapshots_of(federation)

    def answered(asked, reply):
        snapshots.take(f"after {asked.client}: {stage_of(asked)}")
        return reply

    federation.channel.tamper = answered
    expected = snapshots.run(doing=stage_of)
    assert len(snapshots.killed) > 100
    for where, killed in snapshots.killed:
        state = killed.run()
        assert state.adapter.digest() == expected.adapter.digest(), where
        assert state.update_length == expected.update_length, where
        # An attempt that is begun again is answered again.
        assert not different_stories(killed.events, federation.events, again=["update_received"]), where


def killed_in_unmasking(federation, path):
    """Run it; gives it as a kill leaves it when the first client has unmasked in round 1."""
    copies = []

    def kill(asked, reply):
        if (stage_of(asked), asked.round) == ("unmasking", 1) and not copies:
            shutil.copytree(federation.path, path)
            copies.append(federation.copy(path))
        return reply

    federation.channel.tamper = kill
    federation.run()
    return copies[0]


def test_a_killed_server_asks_for_no_second_unmasking(federate, fake_model, tmp_path):
    killed = killed_in_unmasking(begin(federate, fake_model, 3), tmp_path / "killed")
    lists, stages = set(), []

    def note(asked):
        stages.append((asked.round, stage_of(asked)))
        task = decode_task(asked.task, max_bytes=len(asked.task)) if asked.purpose is Purpose.MASK else None
        if task and isinstance(task.stage, Unmasking) and asked.round == 1:
            lists.add((task.session.attempt, task.stage.survivors))

    killed.channel.before = note
    killed.run()
    # The signatures were stored before anybody was asked for a share.
    assert [stage for number, stage in stages if number == 1][:3] == ["unmasking"] * 3
    assert len({attempt for attempt, _ in lists}) <= 2  # that of the updates, and that of the losses


def test_a_server_that_wants_another_attempt_after_an_unmasking_is_refused(federate, fake_model):
    federation = begin(federate, fake_model, 3)
    federation.run()
    memory = json.loads(federation.memories["alice"]["secagg"])
    assert set(memory["closed"].values()) == {2}
    directory = RunDirectory.find(federation.path)
    shutil.rmtree(directory.path / "spool", ignore_errors=True)
    shutil.rmtree(directory.checkpoints / "round-000002")
    with pytest.raises(PeerError, match="0 clients offered keys"):
        federation.run()


@pytest.mark.slow
def test_other_rules_and_feedback_work_under_masks(federate, fake_model, sent):
    for more in (
        {"rule": "rolora"},
        {"rule": "fedsa"},
        {"rule": "fedsvd"},
        {"optimizer": "fedadam"},
        {"settings": {"personalize": 0.5}},
    ):
        federation = begin(federate, fake_model, 3, keep_updates=True, **more)
        federation.run()
        stored = summed(federation, 2)
        np.testing.assert_array_equal(stored.numbers, sum(sent[2, name] for name in NAMES[:3]))


def test_a_refusal_states_no_count(federate, fake_model):
    class Short(fake_model):
        def data_size(self, spec, settings):
            raise DataError("7 records, expected 8")

    federation, replies = begin(federate, fake_model, 3), []
    for participant in federation.channel.participants.values():
        participant.model = Short(**vars(participant.model))
    federation.channel.tamper = lambda asked, reply: replies.append(reply) or reply
    with pytest.raises(PeerError, match="can take part"):
        federation.run()
    refused = [decode_reply(reply, max_bytes=len(reply)) for reply in replies]
    assert {(type(reply), reply.detail) for reply in refused} == {(Refusal, "this client's log has the reason")}
    assert "7 records" in federation.channel.participants[100].refusal


def test_a_participant_without_keys_refuses(federate, fake_model):
    federation = begin(federate, fake_model, 3)
    for participant in federation.channel.participants.values():
        participant.way = federation.client_way(participant.name, identity=None)
    with pytest.raises(PeerError, match="0 clients offered keys"):
        federation.run()


def test_the_stages_cost_about_what_is_planned_for_them(federate, fake_model):
    federation = begin(federate, fake_model)
    federation.run()
    up, down = federation.masked.link_bits(64, sums=2, certified=False)
    for kind, name, planned in (
        ("reply_received", "uplink_bytes", 64 * (up - 6)),
        ("broadcast", "downlink_bytes", 64 * down),
    ):
        stages = [event for event in federation.of_kind(kind) if event.get("purpose") == "mask" and event["round"] == 2]
        spent_bytes = sum(event[name] for event in stages) / len(NAMES)
        assert spent_bytes == pytest.approx(planned / 8, rel=0.1)
