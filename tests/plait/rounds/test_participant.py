from dataclasses import replace

import numpy as np
import pytest

from plait.adapters import AdapterState, add
from plait.errors import Abandoned, DataError, PartError, TooLittleDataError
from plait.rounds.evaluation import SequenceLosses
from plait.rounds.memory import ClientState
from plait.wire.codecs import codec_for
from plait.wire.encoding import encode_delta
from plait.wire.envelope import Direction, Header, open_envelope, seal
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    EvaluateTask,
    Evaluation,
    Refusal,
    RefusalReason,
    TrainTask,
    UpdateReply,
    encode_reply,
)
from tests.plait.rounds.conftest import FINGERPRINT, RANK


def test_a_client_describes_itself_in_numbers(bob):
    assert bob.describe() == ClientCard("bob", FINGERPRINT, bob.spec.digest, 7, 70, 4, 40, {"fake": 4})


@pytest.mark.parametrize("bits", ["fp32", "bf16"])
def test_an_update_is_what_training_changed(bob, bits):
    reply, start = bob.train(bits=bits, batch_size=4), bob.start
    assert isinstance(reply, UpdateReply)
    opened = open_envelope(reply.update, layout=bob.spec.layout)
    header = opened.header
    assert (header.direction, header.client, header.round) == (Direction.UPDATE, "bob", 1)
    assert (header.run_id, header.base_fingerprint) == (start.run_id, FINGERPRINT)
    assert (header.spec_digest, header.relative_to) == (bob.spec.digest, start.shadow.digest())
    assert header.examples == 7
    assert header.metrics["train_tokens"] == 80
    assert (header.metrics["train_loss"], header.metrics["first_loss"]) == (1.5, 2.5)
    assert header.metrics["train_s"] == 0.25
    assert (header.metrics["learning_rate"], header.metrics["shortened"]) == (0.1, 0.5)
    settings = bob.tasks.to_train(1, "bob")
    expected = bob.model.trained(start.shadow.flat, settings.seed, settings) - start.shadow.flat
    np.testing.assert_allclose(opened.delta.flat, expected, rtol=0 if bits == "fp32" else 2**-8)
    assert (header.metrics["distortion"] > 0) == (bits == "bf16")


def test_the_loss_of_a_first_step_on_fewer_than_four_sequences_stays_at_the_client(bob):
    for batch_size, accumulated, is_sent in ((1, 1, False), (3, 1, False), (2, 2, True)):
        reply = bob.train(batch_size=batch_size, gradient_accumulation_steps=accumulated)
        header = open_envelope(reply.update, layout=bob.spec.layout).header
        assert ("first_loss" in header.metrics) is is_sent


def test_a_step_that_was_taken_already_is_not_taken_again(bob):
    bob.describe()
    state = bob.after(1)
    step = bob.broadcast(state, bob.start.shadow.digest())
    for _ in range(2):
        assert isinstance(bob.ask(EvaluateTask(bob.tasks.to_evaluate(1), step)), Evaluation)
        held = AdapterState(bob.spec.layout, np.frombuffer(bob.memory["adapter"], np.float32))
        assert held.digest() == state.shadow.digest()


def broadcast_saying(bob, **changes):
    held = bob.start.shadow
    header = Header(
        direction=Direction.BROADCAST,
        run_id=bob.start.run_id,
        round=0,
        client="",
        base_fingerprint=FINGERPRINT,
        spec_digest=bob.spec.digest,
        relative_to=held.digest(),
        result_digest=held.digest(),
    )
    nothing = encode_delta(AdapterState.zeros(bob.spec.layout), codec_for("fp32"))
    return seal(replace(header, **changes), nothing).data


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base_fingerprint": b"x" * 32}, RefusalReason.BASE_MISMATCH),
        ({"spec_digest": b"x" * 32}, RefusalReason.NEED_FULL),
        ({"relative_to": b"x" * 32, "result_digest": b"y" * 32}, RefusalReason.NEED_FULL),
        ({"result_digest": b"x" * 32}, RefusalReason.NEED_FULL),
        (
            {"direction": Direction.UPDATE, "client": "bob", "result_digest": b"", "examples": 1},
            RefusalReason.MALFORMED,
        ),
    ],
)
def test_a_broadcast_that_does_not_fit_is_refused_and_changes_nothing(bob, changes, reason):
    bob.describe()
    before = dict(bob.memory)
    refusal = bob.ask(TrainTask(bob.tasks.to_train(1, "bob"), broadcast_saying(bob, **changes)))
    assert isinstance(refusal, Refusal)
    assert (refusal.client, refusal.reason) == ("bob", reason)
    assert dict(bob.memory) == before


@pytest.mark.parametrize("task", [b"\xff" * 9, encode_reply(Refusal("x", RefusalReason.BUSY, ""))])
def test_bytes_that_are_no_task_are_refused(bob, task):
    assert bob.ask(task).reason is RefusalReason.MALFORMED


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TooLittleDataError("2 examples, expected at least 3"), RefusalReason.TOO_LITTLE_DATA),
        (DataError("label of 3 of 5 records is none of the run's"), RefusalReason.UNUSABLE_DATA),
        (PartError("trainer 'mine:build' failed: KeyError"), RefusalReason.FAILED),
    ],
)
def test_what_the_model_cannot_do_is_refused_with_its_reason(bob, error, reason):
    class Unable(type(bob.model)):
        def data_size(self, spec, settings):
            raise error

    bob.model = Unable(2.0, 7)
    refusal = bob.describe()
    assert (refusal.reason, refusal.detail) == (reason, str(error))


def test_a_rank_above_the_clients_is_answered_by_its_own_and_nothing_is_built(bob):
    class Spied(type(bob.model)):
        def prepare(self, spec_text):
            pytest.fail("the adapter was built")

    bob.model = Spied(2.0, 7)
    card = bob.ask(DescribeTask(bob.tasks.to_describe(), bob.spec.text), max_rank=RANK - 1)
    assert (type(card), card.max_rank, dict(bob.memory)) == (ClientCard, RANK - 1, {})


def test_training_that_diverged_is_a_failure_of_the_client(bob):
    class Diverging(type(bob.model)):
        def train(self, job):
            trained = super().train(job)
            with np.errstate(over="ignore"):
                huge = AdapterState(job.start.layout, np.full(job.start.layout.size, 3e38, np.float32))
                return replace(trained, state=add(huge, huge))

    bob.model = Diverging(2.0, 7)
    refusal = bob.train()
    assert refusal.reason is RefusalReason.FAILED
    assert "training diverged: tensor 'layer.lora_A.weight' holds NaN or infinity" in refusal.detail


@pytest.mark.parametrize("kept", ["kept", "lost"])
def test_a_client_tells_how_far_its_loss_has_moved_where_it_knows_the_first(bob, kept):
    first = bob.evaluate(0)
    assert first.change is None
    assert first.loss_error > 0
    if kept == "lost":
        bob.memory.pop("judged")
    later = bob.evaluate(1)
    assert later.loss_error > 0
    if kept == "kept":
        assert later.change == pytest.approx(later.loss - first.loss)
        assert later.change_error < later.loss_error
    else:
        assert (later.change, later.change_error) == (None, None)


def test_the_loss_of_a_single_sequence_stays_at_the_client(bob):
    answer = bob.answer(EvaluateTask(bob.tasks.to_evaluate(0), bob.broadcast(bob.start)))
    kept = ClientState.from_bytes(bob.memory["judged"]).after
    losses = SequenceLosses.from_bytes(kept.tags["losses"].encode()).losses
    assert len(losses) == 4
    assert not any(np.float64(loss).tobytes() in answer for loss in losses)


def test_work_that_is_abandoned_is_no_answer(bob):
    class Stopped(type(bob.model)):
        def train(self, job):
            raise Abandoned("the work was abandoned")

    bob.model = Stopped(2.0, 7)
    with pytest.raises(Abandoned):
        bob.train()


@pytest.mark.parametrize(
    "changes", [{"secure_aggregation": True}, {"record_delta": 1e-5, "record_epsilon": 8.0}, {"client_noise": 1.0}]
)
def test_a_client_in_the_open_takes_no_part_where_something_is_held_back(bob, changes):
    reply = bob.describe(**changes)
    assert (type(reply), reply.reason) == (Refusal, RefusalReason.POLICY)
    assert "in the open" in bob.node.refusal
    assert not bob.memory
