from dataclasses import dataclass, replace

import numpy as np
import pytest

from plait.adapters import AdapterState, norm, subtract
from plait.rounds.broadcasts import Broadcasts
from plait.rounds.hooks import after_training, before_training
from plait.rounds.local_model import Trained, TrainJob
from plait.rounds.memory import Kept
from plait.rounds.participant import HOOKS, Participant
from plait.rounds.run_state import initial_state
from plait.wire.envelope import Direction, Header, open_envelope
from plait.wire.messages import TrainTask, decode_reply, encode_task


@dataclass(frozen=True)
class Clip:
    """A hook of a few lines: what is sent has at most this norm."""

    most: float
    key = ""

    def applies(self, settings):
        return True

    def before(self, job, kept):
        return job

    def after(self, job, kept, outgoing):
        delta = outgoing.delta
        part = np.float32(min(1.0, self.most / norm(delta)))
        return replace(outgoing, delta=AdapterState(delta.layout, part * delta.flat)), None


@dataclass(frozen=True)
class Count:
    """A hook that keeps how many rounds it saw, and moves the start by it."""

    name: str
    seen: list
    key = "count"

    def applies(self, settings):
        return settings.seed != 99

    def before(self, job, kept):
        self.seen.append(f"before {self.name}")
        count = int(kept.tags.get("count", "0"))
        return replace(job, start=AdapterState(job.start.layout, job.start.flat + np.float32(count)))

    def after(self, job, kept, outgoing):
        self.seen.append(f"after {self.name}")
        return outgoing, Kept(tags={"count": str(int(kept.tags.get("count", "0")) + 1)})


@pytest.fixture
def job(federate):
    federation = federate()
    model, spec = federation.models["bob"], federation.ranks.master.spec
    header = Header(Direction.BROADCAST, b"r" * 16, 0, "", model.base_fingerprint, spec.digest, result_digest=b"d" * 32)
    settings = replace(federation.plan.settings, round=1)
    return TrainJob(model, spec, settings, federation.initial, federation.initial, header=header)


def moved(job, amount):
    return Trained(AdapterState(job.start.layout, job.start.flat + np.float32(amount)), 1.0, 8, 0.1)


def test_hooks_run_forward_before_training_and_backward_after_it(job, federate):
    memory, seen = federate().memories["bob"], []
    hooks = (Count("one", seen), replace(Count("two", seen)))
    begun = before_training(hooks, job, memory)
    after_training(hooks, begun, moved(begun, 1), memory)
    assert seen == ["before one", "before two", "after two", "after one"]


def test_a_hook_gets_what_it_left_and_in_a_repeated_round_the_same_again(job, federate):
    memory, hooks = federate().memories["bob"], (Count("one", []),)
    for number, starts in ((1, 0), (2, 1), (2, 1), (3, 2)):
        begun = before_training(hooks, replace(job, settings=replace(job.settings, round=number)), memory)
        assert subtract(begun.start, job.start).flat == pytest.approx(starts)
        after_training(hooks, begun, moved(begun, 1), memory)


@pytest.mark.parametrize("wire", ["fp32", "bf16"])
def test_a_hook_at_the_end_of_the_list_clips_every_update_before_it_is_packed(federate, wire):
    federation = federate()
    state = initial_state(b"r" * 16, federation.ranks)
    model, memory, spec = federation.models["bob"], federation.memories["bob"], federation.ranks.master.spec
    bob = Participant("bob", model, memory, hooks=(*HOOKS, Clip(0.01)))
    settings = replace(federation.plan.settings, wire=wire, round=1)
    broadcast = Broadcasts(state, federation.ranks, model.base_fingerprint).leading_from(b"", 0)
    reply = decode_reply(bob.answer(b"".join(encode_task(TrainTask(settings, broadcast)))), max_bytes=1 << 20)
    opened = open_envelope(reply.update, layout=spec.layout)
    assert norm(opened.delta) == pytest.approx(0.01, rel=1e-2)
    free = Participant("bob", model, type(memory)())
    reply = decode_reply(free.answer(b"".join(encode_task(TrainTask(settings, broadcast)))), max_bytes=1 << 20)
    whole = open_envelope(reply.update, layout=spec.layout).delta
    assert norm(whole) > 0.1
    cosine = whole.flat @ opened.delta.flat / (norm(whole) * norm(opened.delta))
    assert cosine == pytest.approx(1, abs=1e-3)
