"""A transformers trainer computes on the chosen device, on a machine that is made to look as if it had three GPUs."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from transformers import TrainingArguments
from transformers.training_args import ParallelMode

from plait.training.bridge import one_device


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


def settings(tmp_path: Path) -> TrainingArguments:
    """As a user's own function makes them, who did not think of devices."""
    return TrainingArguments(output_dir=str(tmp_path), report_to="none")


def test_a_trainer_gets_the_chosen_gpu_and_no_other(current: list[str], tmp_path: Path) -> None:
    with one_device(torch.device("cuda:2")):
        made = settings(tmp_path)
        assert (str(made.device), made.n_gpu, current[-1]) == ("cuda:2", 1, "cuda:2")
        assert made.parallel_mode is ParallelMode.NOT_PARALLEL
        assert str(PartialState().device) == "cuda:2", "where accelerate sends batches"
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ
    theirs = settings(tmp_path)
    assert (str(theirs.device), theirs.n_gpu) == ("cuda:0", 3), "what it would take by itself"
