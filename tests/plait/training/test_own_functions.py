"""Losses of clients, against dense formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from plait.data import Record, RecordKind
from plait.errors import ConfigError
from plait.own_code import checked
from plait.plugins import Kind, reference
from plait.rounds.local_model import TrainJob
from plait.training.contract import LOSS_CHECKS, mean_note
from plait.training.local_model import PeftLocalModel
from plait.training.own_functions import LocalAdapter, loss_named
from tests.plait.training.conftest import SETTINGS as SMALL

GENERATOR = np.random.default_rng(5)
LOGITS, TEACHER = (GENERATOR.normal(size=(6, 9)) for _ in range(2))
LABELS = GENERATOR.integers(9, size=6)
A = GENERATOR.normal(size=(3, 5))
SETTINGS = replace(SMALL, local_steps=3, max_grad_norm=1e9)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def adapter() -> LocalAdapter:
    tensors = {"x.lora_A.weight": torch.tensor(A, requires_grad=True), "x.lora_B.weight": torch.ones(4, 3)}
    return LocalAdapter(tensors, {}, lambda: torch.tensor(TEACHER))


def value(text: str) -> float:
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss = loss_named(text)
    found = loss(logits, torch.tensor(LABELS), adapter())
    found.backward()
    assert logits.grad is not None
    return float(found.detach())


def cross_entropy() -> float:
    return -float(log_softmax(LOGITS)[np.arange(6), LABELS].sum())


def test_a_mean_over_the_labels_is_found_out():
    def mean(logits, labels, adapter):
        return torch.nn.functional.cross_entropy(logits, labels)

    broken = [verdict.claim for verdict in checked(mean, LOSS_CHECKS) if not verdict.holds]
    assert broken == ["a sum over the labels"]
    assert "expected a sum, not a mean" in mean_note(reference(Kind.LOSS, mean))
    assert mean_note("cross_entropy") == ""


def test_a_loss_of_ones_own_has_options_and_wrong_names_are_told_the_nearest():
    def scaled(logits, labels, adapter, *, factor: float = 2.0):
        return factor * torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    name = reference(Kind.LOSS, scaled)
    assert value(f"{name}:factor=3") == pytest.approx(3 * cross_entropy(), rel=1e-6)
    for text, said in (
        ("cross_entropi", "did you mean"),
        (f"{name}:fcator=1", "did you mean 'factor'"),
        ("cross_entropy:x=1", "has none"),
    ):
        with pytest.raises(ConfigError, match=said):
            loss_named(text)


@pytest.fixture
def train(resident, blueprint):
    local = PeftLocalModel(resident, "ada", [Record(text="x = 1\n" * 400)], kind=RecordKind.TEXT, histogram={})

    def trained(start=blueprint.initial, **changes):
        job = TrainJob(local, blueprint.spec, replace(SETTINGS, **changes), blueprint.initial, start)
        return local.train(job)

    return trained


def test_a_functions_cross_entropy_trains_as_plaits_own_and_the_reported_loss_stays(train):
    def same(logits, labels, adapter):
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    def double(logits, labels, adapter):
        return 2 * same(logits, labels, adapter)

    own, plain = train(loss=reference(Kind.LOSS, same), local_steps=1), train(local_steps=1)
    assert own.report.loss == pytest.approx(plain.report.loss, rel=1e-5)
    assert train(loss=reference(Kind.LOSS, double), local_steps=1).report.loss == pytest.approx(
        plain.report.loss, rel=1e-5
    )
    np.testing.assert_allclose(own.state.flat, plain.state.flat, atol=2e-4)


def test_the_received_logits_are_those_before_the_first_step(train):
    gaps: list[float] = []

    def look(logits, labels, adapter):
        teacher = adapter.received_logits()
        assert not teacher.requires_grad
        gaps.append(float((teacher - logits.detach()).abs().max()))
        assert set(adapter.tensors) == set(adapter.received)
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    train(loss=reference(Kind.LOSS, look))
    assert gaps[0] == pytest.approx(0, abs=1e-4)
    assert gaps[2] > 100 * max(gaps[0], 1e-6)


def test_what_a_loss_raises_is_told_by_its_place_and_never_quoted(train):
    def loud(logits, labels, adapter):
        raise RuntimeError("the text of a client")

    with pytest.raises(ConfigError, match=r"failed: RuntimeError \(.*test_own_functions\.py, line \d+\)") as caught:
        train(loss=reference(Kind.LOSS, loud))
    assert "text of a client" not in str(caught.value)
    with pytest.raises(ConfigError, match="no single number"):
        train(loss=reference(Kind.LOSS, lambda logits, labels, adapter: logits.detach().sum()))
