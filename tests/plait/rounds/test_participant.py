from dataclasses import dataclass, replace

import numpy as np
import pytest

from plait.adapters import AdapterState, add
from plait.errors import Abandoned, DataError, PartError, TooLittleDataError
from plait.rounds.broadcasts import Broadcasts, follow
from plait.rounds.evaluation import SequenceLosses
from plait.rounds.memory import ClientState
from plait.rounds.participant import Participant
from plait.rounds.run_state import advance, initial_state
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
    decode_reply,
    encode_reply,
    encode_task,
)


@dataclass
class Server:
    """What the server of one client knows."""

    ranks: object
    settings: object
    base: bytes

    @property
    def spec(self):
        return self.ranks.master.spec

    def broadcast(self, state, held=b""):
        return Broadcasts(state, self.ranks, self.base).leading_from(held, 0)

    def train(self, state, **changes):
        return TrainTask(replace(self.settings, **changes), self.broadcast(state))

    def evaluate(self, state, **changes):
        return EvaluateTask(replace(self.settings, **changes), self.broadcast(state))

    def next(self, state, amount=0.25, wire="fp32"):
        layout = self.spec.layout
        step = AdapterState(layout, np.full(layout.size, amount, np.float32))
        return follow(advance(state, step), self.ranks, self.base, codec=codec_for(wire), new_factors=False)[0]


@pytest.fixture
def server(federate):
    federation = federate()
    model = federation.models["bob"]
    return Server(federation.ranks, replace(federation.plan.settings, round=1, seed=3), model.base_fingerprint)


@pytest.fixture
def start(ranks):
    return initial_state(b"r" * 16, ranks)


@pytest.fixture
def memory(federate):
    return federate().memories["bob"]


@pytest.fixture
def model(federate):
    return federate().models["bob"]


@pytest.fixture
def bob(model, memory):
    return Participant("bob", model, memory)


def ask(participant, task):
    reply = participant.answer(task if isinstance(task, bytes) else b"".join(encode_task(task)))
    return decode_reply(reply, max_bytes=1 << 20)


def held_digest(memory, layout):
    return AdapterState(layout, np.frombuffer(memory["adapter"], np.float32)).digest()


def test_a_client_describes_itself_in_numbers(bob, model, server):
    card = ask(bob, DescribeTask(server.settings, server.spec.text))
    assert card == ClientCard("bob", model.base_fingerprint, server.spec.digest, 7, 70, 4, 40, {"fake": 4})


@pytest.mark.parametrize("wire", ["fp32", "bf16"])
def test_an_update_is_what_training_changed(bob, model, server, start, wire):
    task = server.train(start, wire=wire, batch_size=4)
    reply = ask(bob, task)
    assert isinstance(reply, UpdateReply)
    opened = open_envelope(reply.update, layout=server.spec.layout)
    header = opened.header
    assert (header.direction, header.client, header.round) == (Direction.UPDATE, "bob", 1)
    assert (header.run_id, header.base_fingerprint) == (start.run_id, model.base_fingerprint)
    assert (header.spec_digest, header.relative_to) == (server.spec.digest, start.shadow.digest())
    assert header.examples == 7
    assert header.metrics["train_tokens"] == 80
    assert (header.metrics["train_loss"], header.metrics["first_loss"]) == (1.5, 2.5)
    assert header.metrics["train_s"] == 0.25
    assert (header.metrics["learning_rate"], header.metrics["shortened"]) == (0.1, 0.5)
    expected = model.trained(start.shadow.flat, 3, task.settings) - start.shadow.flat
    np.testing.assert_allclose(opened.delta.flat, expected, rtol=0 if wire == "fp32" else 2**-8)
    assert (header.metrics["distortion"] > 0) == (wire == "bf16")


def test_the_loss_of_a_first_step_on_fewer_than_four_sequences_stays_at_the_client(bob, server, start):
    for batch_size, accumulated, is_sent in ((1, 1, False), (3, 1, False), (2, 2, True)):
        reply = ask(bob, server.train(start, batch_size=batch_size, gradient_accumulation_steps=accumulated))
        header = open_envelope(reply.update, layout=server.spec.layout).header
        assert ("first_loss" in header.metrics) is is_sent


def test_a_step_that_was_taken_already_is_not_taken_again(bob, memory, server, start):
    ask(bob, DescribeTask(server.settings, server.spec.text))
    state = server.next(start)
    step = server.broadcast(state, start.shadow.digest())
    for _ in range(2):
        assert isinstance(ask(bob, EvaluateTask(server.settings, step)), Evaluation)
        assert held_digest(memory, server.spec.layout) == state.shadow.digest()


def broadcast_saying(server, start, **changes):
    header = Header(
        direction=Direction.BROADCAST,
        run_id=start.run_id,
        round=0,
        client="",
        base_fingerprint=server.base,
        spec_digest=server.spec.digest,
        relative_to=start.shadow.digest(),
        result_digest=start.shadow.digest(),
    )
    nothing = encode_delta(AdapterState.zeros(server.spec.layout), codec_for("fp32"))
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
def test_a_broadcast_that_does_not_fit_is_refused_and_changes_nothing(bob, memory, server, start, changes, reason):
    ask(bob, DescribeTask(server.settings, server.spec.text))
    before = dict(memory)
    refusal = ask(bob, TrainTask(server.settings, broadcast_saying(server, start, **changes)))
    assert isinstance(refusal, Refusal)
    assert (refusal.client, refusal.reason) == ("bob", reason)
    assert dict(memory) == before


@pytest.mark.parametrize("task", [b"\xff" * 9, encode_reply(Refusal("x", RefusalReason.BUSY, ""))])
def test_bytes_that_are_no_task_are_refused(bob, task):
    assert ask(bob, task).reason is RefusalReason.MALFORMED


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TooLittleDataError("2 examples, expected at least 3"), RefusalReason.TOO_LITTLE_DATA),
        (DataError("label of 3 of 5 records is none of the run's"), RefusalReason.UNUSABLE_DATA),
        (PartError("trainer 'mine:build' failed: KeyError"), RefusalReason.FAILED),
    ],
)
def test_what_the_model_cannot_do_is_refused_with_its_reason(memory, server, model, error, reason):
    class Unable(type(model)):
        def data_size(self, spec, settings):
            raise error

    bob = Participant("bob", Unable(2.0, 7), memory)
    refusal = ask(bob, DescribeTask(server.settings, server.spec.text))
    assert (refusal.reason, refusal.detail) == (reason, str(error))


def test_a_rank_above_the_clients_is_answered_by_its_own_and_nothing_is_built(memory, server, model):
    class Spied(type(model)):
        def prepare(self, spec_text):
            pytest.fail("the adapter was built")

    small = Participant("bob", Spied(2.0, 7), memory, max_rank=server.ranks.master.rank - 1)
    card = ask(small, DescribeTask(server.settings, server.spec.text))
    assert (type(card), card.max_rank, dict(memory)) == (ClientCard, server.ranks.master.rank - 1, {})


def test_training_that_diverged_is_a_failure_of_the_client(memory, server, start, model):
    class Diverging(type(model)):
        def train(self, job):
            trained = super().train(job)
            with np.errstate(over="ignore"):
                huge = AdapterState(job.start.layout, np.full(job.start.layout.size, 3e38, np.float32))
                return replace(trained, state=add(huge, huge))

    refusal = ask(Participant("bob", Diverging(2.0, 7), memory), server.train(start))
    assert refusal.reason is RefusalReason.FAILED
    assert "training diverged: tensor 'layer.lora_A.weight' holds NaN or infinity" in refusal.detail


@pytest.mark.parametrize("kept", ["kept", "lost"])
def test_a_client_tells_how_far_its_loss_has_moved_where_it_knows_the_first(bob, memory, server, start, kept):
    first = ask(bob, server.evaluate(start, round=0))
    assert first.change is None
    assert first.loss_error > 0
    if kept == "lost":
        memory.pop("judged")
    later = ask(bob, server.evaluate(server.next(start)))
    assert later.loss_error > 0
    if kept == "kept":
        assert later.change == pytest.approx(later.loss - first.loss)
        assert later.change_error < later.loss_error
    else:
        assert (later.change, later.change_error) == (None, None)


def test_the_loss_of_a_single_sequence_stays_at_the_client(bob, memory, server, start):
    answer = bob.answer(b"".join(encode_task(server.evaluate(start, round=0))))
    kept = ClientState.from_bytes(memory["judged"]).after
    losses = SequenceLosses.from_bytes(kept.tags["losses"].encode()).losses
    assert len(losses) == 4
    assert not any(np.float64(loss).tobytes() in answer for loss in losses)


def test_work_that_is_abandoned_is_no_answer(model, memory, server, start):
    class Stopped(type(model)):
        def train(self, job):
            raise Abandoned("the work was abandoned")

    with pytest.raises(Abandoned):
        ask(Participant("bob", Stopped(2.0, 7), memory), server.train(start))


@pytest.mark.parametrize(
    "changes", [{"secure_aggregation": True}, {"record_delta": 1e-5, "record_epsilon": 8.0}, {"client_noise": 1.0}]
)
def test_a_client_in_the_open_takes_no_part_where_something_is_held_back(bob, memory, server, changes):
    reply = ask(bob, DescribeTask(replace(server.settings, **changes), server.spec.text))
    assert (type(reply), reply.reason) == (Refusal, RefusalReason.POLICY)
    assert "in the open" in bob.refusal
    assert not memory
