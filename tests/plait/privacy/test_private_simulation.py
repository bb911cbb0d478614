"""Runs with private records on a real base: every rule of the guide, and both ways to gradients of single examples."""

from pathlib import Path

import numpy as np
import pytest

import plait
from plait.adapters.peft_reading import load_peft_directory
from plait.cli.privacy import check_privacy
from plait.ledger.ledger import read_events
from plait.privacy import client as paying
from plait.privacy.client import charge
from plait.training.private_steps import ExampleGradients
from tests.plait.api.conftest import SMALL, rows

PRIVATE = {**SMALL, "batch_size": 4, "dp": "record", "dp_epsilon": 8.0, "partition": "natural:author", "rounds": 1}


def simulated(out: Path, **settings: object) -> Path:
    plait.simulate(rows(), out=out, **{**PRIVATE, **settings})
    return out


def loudest(run: Path) -> float:
    """The largest value of the published adapter's side that starts at zero, or of its square matrices."""
    tensors = load_peft_directory(run / "adapter").tensors
    return max(float(np.abs(each).max()) for name, each in tensors.items() if "lora_A" not in name)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many gradients went one after another through PEFT's own modules."""
    seen: list[int] = []
    real = ExampleGradients._alone
    monkeypatch.setattr(ExampleGradients, "_alone", lambda self, example: seen.append(1) or real(self, example))
    return seen


@pytest.mark.slow
def test_a_run_trains_with_noise_and_pays_for_what_it_took(tmp_path, alone, monkeypatch):
    paid: list[tuple[int, bytes]] = []

    def watched(*args: object, **kwargs: object) -> object:
        made = charge(*args, **kwargs)
        paid.append((made.privacy.records, made.key))
        return made

    monkeypatch.setattr(paying, "charge", watched)
    run = simulated(tmp_path / "run", rounds=2)
    assert not alone
    spent = check_privacy(read_events(run / "ledger.jsonl"))
    assert spent.by_client.keys() == {"ada", "bob", "eve"}
    assert all(7 < epsilon <= 8 for epsilon in spent.by_client.values())
    # One text, one record: none is packed with another, and two rounds are paid for once.
    assert [records for records, _ in paid] == [22, 22, 11] * 2
    assert len({key for _, key in paid}) == 6
    assert "record-level differential privacy" in (run / "report.html").read_text()
    assert loudest(run) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"rule": "ffa"},
        {"rule": "fedsvd"},
        {"rule": "fedsb", "method": "lora_xs"},
        {"method": "ia3"},
        {"method": "dora"},  # not fused: one example after another
    ],
    ids=lambda how: "-".join(map(str, how.values())),
)
def test_other_rules_and_methods_train_privately_too(tmp_path, how, alone):
    run = simulated(tmp_path / "run", **how)
    assert bool(alone) or how.get("method") != "dora"
    spent = check_privacy(read_events(run / "ledger.jsonl"))
    assert 7 < spent.epsilon <= 8
