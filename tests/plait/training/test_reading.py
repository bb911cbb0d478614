"""A server that reads a client's text from its updates, token by token, and the defences against it.

The adapter has rank 1 on embeddings and output layer: after one step on one short sequence the rows that moved
identify the input token and the target token.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from plait.adapters import AdapterState
from plait.config import RunConfig
from plait.data import Record, RecordKind
from plait.errors import PolicyError
from plait.policy import Policy
from plait.rounds.participant import Participant
from plait.run import resolve
from plait.settle import settle
from plait.training.local_model import PeftLocalModel
from plait.training.resident import ResidentBase
from plait.wire.codecs import codec_for
from plait.wire.encoding import encode_delta
from plait.wire.envelope import Direction, Header, open_envelope, seal
from plait.wire.messages import Refusal, RefusalReason, TrainTask, UpdateReply, decode_reply, encode_task
from tests.plait.rounds.conftest import DictMemory

SECRET = "The code of the safe behind the portrait is 7391, and the spare key lies under the third step."
TASKS = 60


@pytest.fixture
def victim(resident: ResidentBase) -> PeftLocalModel:
    return PeftLocalModel(resident, "ada", [Record(text=SECRET)], kind=RecordKind.TEXT, histogram={})


@pytest.fixture
def hostile(victim: PeftLocalModel):
    """Makes the attack's tasks."""
    spec_text = json.dumps(
        {
            "method": "lora",
            "peft_config": {
                "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "lora_alpha": 1,
                "target_modules": ["embed_tokens", "lm_head"],
            },
            "task": "causal-lm", "labels": [], "init_seed": 3,
        },
        sort_keys=True, separators=(",", ":"),
    )  # fmt: skip
    spec, initial = victim.prepare(spec_text)
    settings = replace(
        settle(RunConfig(base="tiny")).plan.settings,
        local_steps=1, batch_size=1, seq_len=2, bits="fp32", round=1, held_out_fraction=0.01, learning_rate=0.1,
        carry_moments=False, personalize=0.0, without_feedback=True,
    )  # fmt: skip
    header = Header(
        direction=Direction.BROADCAST, run_id=b"r" * 16, round=0, client="", base_fingerprint=victim.base_fingerprint,
        spec_digest=spec.digest, result_digest=initial.digest(), spec_json=spec_text,
    )  # fmt: skip
    broadcast = seal(header, encode_delta(initial, codec_for("fp32"))).data

    def task(seed: int) -> TrainTask:
        return TrainTask(replace(settings, seed=seed), broadcast)

    return spec, settings, task


def ask(participant: Participant, task: TrainTask):
    return decode_reply(participant.answer(b"".join(encode_task(task))), max_bytes=1 << 24)


def read_pair(delta: AdapterState) -> tuple[int, int]:
    """(the token that was read, the token that was to be written) of a sequence of two."""
    names = delta.layout.by_name
    (read,) = (delta[name] for name in names if "lora_embedding_A" in name)
    (written,) = (delta[name] for name in names if "lm_head" in name and "lora_B" in name)
    # One row of the output layer moves against all others.
    signs = np.sign(written.reshape(-1))
    return int(np.abs(read).reshape(-1).argmax()), int((signs == -np.sign(signs.sum())).argmax())


@pytest.mark.slow
def test_without_terms_the_attack_reads_the_text_and_with_terms_nothing_leaves(victim, resident, hostile):
    spec, settings, task = hostile
    pairs = {tuple(map(int, example.tokens)) for example in victim.split(spec, settings).train}
    trusting = Participant("ada", victim, DictMemory())
    read = set()
    for seed in range(TASKS):
        reply = ask(trusting, task(seed))
        assert isinstance(reply, UpdateReply), reply
        read.add(read_pair(open_envelope(reply.update, layout=spec.layout).delta))
    assert len(pairs) > 10
    assert read <= pairs
    assert len(read) > 0.8 * len(pairs)

    # Welcomed to an ordinary run, asked for the same.
    config = RunConfig(base="tiny")
    terms = resolve(settle(config)).terms("ada", policy=Policy())
    memory = DictMemory()
    careful = Participant("ada", victim, memory, terms=terms)
    for seed in range(TASKS):
        reply = ask(careful, task(seed))
        assert isinstance(reply, Refusal)
        assert reply.reason is RefusalReason.POLICY
    assert not memory


@pytest.mark.parametrize(
    "said",
    [
        {"target_modules": "embed_tokens", "rank": 1},
        {"local_steps": 1, "batch_size": 1, "seq_len": 16},
        {"local_steps": 1, "batch_size": 1, "seq_len": 4096},
        {"max_grad_norm": 1e-9},
        {"method": "full"},
    ],
)
def test_a_run_that_announces_the_attack_is_refused_at_the_welcome(resident, said):
    config = RunConfig(base="tiny", bits="fp32", **said)
    with pytest.raises(PolicyError, match="of this client's policy allows"):
        resolve(settle(config)).terms("ada", policy=Policy())


def test_a_client_with_little_data_trains_on_none_of_it(resident, victim):
    config = RunConfig(base="tiny", seq_len=16)
    terms = resolve(settle(config)).terms("ada")
    covered = victim.coverage(terms.own, terms.tasks.to_train(1, "ada"))
    with pytest.raises(PolicyError, match="would cover"):
        Policy().check_coverage(examples=covered.examples, tokens=covered.tokens)
