import importlib
import os
import sys
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from transformers import Trainer, TrainingArguments
from transformers.training_args import ParallelMode

from plait.adapters import AdapterState
from plait.data import Record, RecordKind
from plait.errors import ConfigError, PartError
from plait.plugins import admit
from plait.rounds.local_model import TrainJob
from plait.training.bridge import load_own_trainer, one_device, own_trainer
from plait.training.examples import Example
from plait.training.local_model import PeftLocalModel
from plait.training.resident import ResidentBase
from tests.plait.training.conftest import SETTINGS


def client(resident: ResidentBase, build: Callable[..., Any]) -> PeftLocalModel:
    records = [Record(text="x = 1\n" * 300)]
    return PeftLocalModel(resident, "ada", records, kind=RecordKind.TEXT, histogram={}, own_trainer=own_trainer(build))


def trained_by(local, blueprint, start, settings):
    return local.train(TrainJob(local, blueprint.spec, settings, received=start, start=start))


def build(model, tokenizer, data, args):
    return Trainer(model=model, args=TrainingArguments(**args), train_dataset=data)


@pytest.mark.slow
def test_a_transformers_trainer_trains_the_adapter(resident, blueprint):
    local = client(resident, build)
    before = local.evaluate(blueprint.spec, blueprint.initial, SETTINGS).loss
    trained = trained_by(local, blueprint, blueprint.initial, SETTINGS)
    assert local.evaluate(blueprint.spec, trained.state, SETTINGS).loss < before - 0.2
    report = trained.report
    assert 0 < report.loss < before
    # The first step of six that end well below the base.
    assert report.loss < report.first_loss < before + 0.5
    assert report.tokens == 6 * 2 * 32


@pytest.mark.slow
@pytest.mark.parametrize(("trained", "still"), [("A", "B"), ("B", "A")])
def test_a_side_that_the_rule_leaves_as_it_is_stays_so_under_a_trainer(resident, blueprint, trained, still):
    local = client(resident, build)
    # With B zero A has no gradient, so both begin elsewhere.
    start = AdapterState(blueprint.initial.layout, blueprint.initial.flat + np.float32(0.01))
    # Decay would move a side that has no gradient of its own too.
    settings = replace(SETTINGS, trained=trained, weight_decay=0.1)
    after = trained_by(local, blueprint, start, settings).state
    for name, tensor in after.items():
        assert np.array_equal(tensor, start[name]) == (f"lora_{still}" in name)
    both = trained_by(local, blueprint, start, SETTINGS).state
    assert not any(np.array_equal(tensor, start[name]) for name, tensor in both.items())


def test_what_a_trainer_prints_stays_out_of_plaits_results(resident, blueprint, capsys):
    def chatty(model, tokenizer, data, args):
        print("hello from a trainer")
        return build(model, tokenizer, data, args)

    trained_by(client(resident, chatty), blueprint, blueprint.initial, replace(SETTINGS, local_steps=1))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello from a trainer" in captured.err
    assert "{" not in captured.err


def test_a_trainer_is_imported_from_where_the_user_is_and_nothing_beside_it_hides_an_installed_library(
    tmp_path, monkeypatch
):
    (tmp_path / "another_trainer_module.py").write_text("def build(model, tokenizer, data, args): ...\n")
    for name in ("numpy", "datasets", "wave"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    admit("another_trainer_module:build")
    assert callable(load_own_trainer("another_trainer_module:build"))
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    assert Path(str(importlib.import_module("wave").__file__)).parent != tmp_path


@pytest.mark.parametrize(
    "where", ["nowhere", "no_such_module_at_all:build", "json:no_such_function", ":build", "json:"]
)
def test_a_trainer_that_cannot_be_imported_is_refused(where):
    admit(where)
    with pytest.raises(ConfigError, match="trainer"):
        load_own_trainer(where)


@pytest.mark.slow
def test_fedprox_pulls_a_trainers_steps_to_where_they_began(resident, blueprint):
    def plain(model, tokenizer, data, args):
        return build(model, tokenizer, data, {**args, "optim": "sgd", "max_grad_norm": 0.0})

    local, mu = client(resident, plain), 40.0
    start = AdapterState(blueprint.initial.layout, blueprint.initial.flat + np.float32(0.01))
    settings = replace(SETTINGS, local_steps=2)
    first = trained_by(local, blueprint, start, replace(SETTINGS, local_steps=1)).state
    free = trained_by(local, blueprint, start, settings).state
    pulled = trained_by(local, blueprint, start, replace(settings, proximal=mu)).state
    # The first step starts at the origin, so only the second is pulled: by mu (w1 - w0) times the learning rate.
    expected = -SETTINGS.learning_rate * mu * (first.flat - start.flat)
    assert np.abs(expected).max() > 1e-5
    np.testing.assert_allclose(pulled.flat - free.flat, expected, atol=0.02 * np.abs(expected).max())


def test_a_trainer_that_fails_is_told_from_one_that_does_not_fit():
    class Failing:
        def train(self) -> None:
            raise RuntimeError("a line of the training data")

    model = torch.nn.Linear(1, 1)
    model.device = torch.device("cpu")
    tokens = np.arange(3, dtype=np.int32)
    train = own_trainer(lambda *_: Failing(), name="mine:build")
    with pytest.raises(
        PartError, match=r"trainer 'mine:build' failed: RuntimeError \(.*test_bridge.py, line"
    ) as caught:
        train(model, None, [Example(tokens, tokens)], SETTINGS, [*model.parameters()])
    assert "training data" not in str(caught.value)
    assert "RuntimeError: a line of the training data (" in caught.value.in_full
    with pytest.raises(PartError, match=r"it returned a NoneType, expected what has train\(\)"):
        own_trainer(lambda *_: None)(model, None, [Example(tokens, tokens)], SETTINGS, [*model.parameters()])
    Failing.train = lambda _self: 0.5
    with pytest.raises(PartError, match="returned has no training_loss"):
        train(model, None, [Example(tokens, tokens)], SETTINGS, [*model.parameters()])


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> Generator[list[str]]:
    """The devices that were made current, in order."""
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: told.append(str(device)))
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    yield told
    AcceleratorState._reset_state(reset_partial_state=True)


def undecided(tmp_path: Path) -> TrainingArguments:
    """As a user's own function makes them, who did not think of devices."""
    return TrainingArguments(output_dir=str(tmp_path), report_to="none")


def test_a_trainer_gets_the_chosen_gpu_and_no_other(current, tmp_path):
    with one_device(torch.device("cuda:2")):
        made = undecided(tmp_path)
        assert (str(made.device), made.n_gpu, current[-1]) == ("cuda:2", 1, "cuda:2")
        assert made.parallel_mode is ParallelMode.NOT_PARALLEL
        assert str(PartialState().device) == "cuda:2", "where accelerate sends batches"
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ
    theirs = undecided(tmp_path)
    assert (str(theirs.device), theirs.n_gpu) == ("cuda:0", 3), "what it would take by itself"
