import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plait.abandon import Abandoned
from plait.abandonment import Abandonment
from plait.adapters import AdapterSpec, AdapterState, Layout, Task
from plait.errors import ConfigError, MachineError
from plait.features.child_trainer.model import ProgramModel
from plait.features.child_trainer.program import Program
from plait.rounds.holdings import NeedFullError
from plait.rounds.local_model import TrainJob
from plait.rounds.moved_base import MovedBase
from plait.wire.layouts import packed_layout
from plait.wire.settings import Settings

TRAINER = Path(__file__).with_name("trainer.py")
LAYOUT = Layout.of({"q.lora_A.weight": (2, 3), "q.lora_B.weight": (3, 2)})
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"], "task_type": "CAUSAL_LM"}
SPEC = AdapterSpec("lora", CONFIG, Task.CAUSAL_LM, (), LAYOUT, 7)
SETTINGS = Settings(
    local_steps=2, batch_size=2, gradient_accumulation_steps=1, seq_len=10, learning_rate=1e-3, weight_decay=0.0,
    max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=16, seed=1,
)  # fmt: skip


class Memory(dict):
    def load(self, key):
        return self.get(key)

    def save(self, key, value):
        self[key] = value


@pytest.fixture
def program(tmp_path):
    made = []

    def make(how="well", **more):
        made.append(Program(f"{sys.executable} {TRAINER} {how}", tmp_path, data="data.jsonl", **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def model_of(program) -> ProgramModel:
    model = ProgramModel(program, Memory(), program.folder)
    model.learn(SPEC.text, packed_layout(LAYOUT))
    return model


def job_of(model) -> TrainJob:
    spec, start = model.prepare(SPEC.text)
    return TrainJob(model, spec, SETTINGS, start, start=start)


def test_a_program_describes_trains_and_evaluates(program):
    model = model_of(program())
    assert model.base_fingerprint == b"b" * 32
    spec, initial = model.prepare(SPEC.text)
    assert (spec.digest, initial.flat.any()) == (SPEC.digest, False)
    size = model.data_size(spec, SETTINGS)
    assert (size.train_examples, size.train_tokens, size.held_out_examples, size.held_out_tokens) == (8, 80, 4, 40)
    assert model.coverage(spec, SETTINGS).tokens == 4 * 80 // 8
    trained = model.train(job_of(model))
    assert trained.state.flat.tolist() == [0.5] * LAYOUT.size
    assert (trained.loss, trained.tokens) == (1.5, 80)
    losses = model.evaluate(spec, initial, SETTINGS)
    assert (losses.loss, losses.tokens) == (8 / 40, 40)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("dies", "ended with code 3 before it answered"),
        ("hangs", "printed nothing for 1 s and was stopped"),
        ("garbage", "printed something other than a JSON object on a line"),
        ("error", "the trainer failed: out of memory"),
        ("nan", "the trainer's adapter: .*finite"),
        ("shape", "the trainer's adapter: "),
        ("infinite", "train_loss .inf., expected a finite number"),
    ],
)
def test_a_program_that_fails_is_one_line_and_asked_again_later(program, how, message):
    model = model_of(program(how, silent_s=1.0))
    for _ in range(2):
        with pytest.raises(MachineError, match=message) as failed:
            model.train(job_of(model))
        assert "\n" not in str(failed.value)
    assert model.evaluate(SPEC, AdapterState.zeros(LAYOUT), SETTINGS).examples == 4


def test_losses_that_are_none_are_refused(program):
    with pytest.raises(MachineError, match="gave no losses"):
        model_of(program("word")).evaluate(SPEC, AdapterState.zeros(LAYOUT), SETTINGS)


def test_a_program_whose_task_was_abandoned_stops_and_stays(program):
    asked = program("slow")
    model = model_of(asked)
    assert model.base_fingerprint
    process, abandonment = asked._process, Abandonment()
    threading.Timer(0.5, abandonment.ask, ("deadline",)).start()
    with abandonment.obeyed(), pytest.raises(Abandoned, match="deadline"):
        model.train(job_of(model))
    assert asked._process is process
    assert process.poll() is None


def test_a_program_has_a_group_of_its_own_and_nothing_of_this_process(program, monkeypatch):
    monkeypatch.setenv("PLAIT_SECRET", "s3cret")
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        asked = program()
        model_of(asked).base_fingerprint  # noqa: B018 (starts it)
        number = asked._process.pid
        assert os.getpgid(number) == os.getsid(number) == number
        environment = Path(f"/proc/{number}/environ").read_bytes()
        assert b"s3cret" not in environment
        assert b"PLAIT_DATA=data.jsonl" in environment
        links = [str(link.readlink()) for link in Path(f"/proc/{number}/fd").iterdir()]
        assert str(Path(f"/proc/self/fd/{writing}").readlink()) not in links
        assert not [link for link in links if link.startswith("socket")]
        assert "Max core file size        0" in Path(f"/proc/{number}/limits").read_text()
    finally:
        os.close(reading)
        os.close(writing)


def test_what_a_program_cannot_be_told_is_refused(program):
    model = model_of(program())
    with pytest.raises(ConfigError, match="base that moves"):
        model.train(replace(job_of(model), base=MovedBase(digest=b"d" * 32)))
    with pytest.raises(NeedFullError):
        model.prepare(replace(SPEC, init_seed=8).text)
    with pytest.raises(MachineError, match="cannot be started"):
        Program("/no/such/trainer", model.folder, data="").ask("describe")
    with pytest.raises(ConfigError, match="expected a command"):
        Program("trainer 'open", model.folder, data="")


def test_a_program_begins_from_zeros(program):
    # A broadcast relative to the real one leads to a request for the whole.
    _, initial = model_of(program()).prepare(SPEC.text)
    assert initial.digest() == AdapterState(LAYOUT, np.zeros(LAYOUT.size, np.float32)).digest()
