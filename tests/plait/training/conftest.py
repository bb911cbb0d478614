"""The tiny base, loaded once for all tests of this package, and settings of a small training."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from plait.adapters import AdapterState, AdapterTask
from plait.adapters.method import AdapterRequest
from plait.rounds.local_model import NOTHING, Carried, Trained
from plait.training.bases import LocatedBase, locate_base
from plait.training.blueprint import AdapterTemplate, design, read_base_config
from plait.training.device import Compute
from plait.training.examples import Example, Tokenizer
from plait.training.learner import TrainingInputs
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.trainer import train_steps
from plait.wire.settings import Settings

SETTINGS = Settings(
    local_steps=6, batch_size=2, gradient_accumulation_steps=1, seq_len=32, learning_rate=1e-2, weight_decay=0.0,
    max_grad_norm=1.0, held_out_fraction=0.2, max_held_out_sequences=4, seed=5, total_steps=6,
)  # fmt: skip


def designed(tiny: LocatedBase, method: str = "lora", *, seed: int = 7, **options: Any) -> AdapterTemplate:
    config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
    request = replace(AdapterRequest(method, rank=4, alpha=8, virtual_tokens=3), **options)
    return design(config, request, task=AdapterTask.CAUSAL_LM, seed=seed, weights=tiny.directory)


def train_on(
    base: ResidentBase, made: AdapterTemplate, rows: Sequence[Example], settings: Settings, *,
    state: AdapterState | None = None, carried: Carried = NOTHING, **options: Any,
) -> Trained:  # fmt: skip
    """Train an adapter from its initial values, or from others."""
    state = state or made.initial
    model = base.with_adapter(made.spec, state)
    parameters = adapter_parameters(model, made.spec.layout)
    return train_steps(model, parameters, TrainingInputs(rows, settings, state, carried), **options)


def moved(made: AdapterTemplate, seed: int = 1) -> AdapterState:
    """An adapter that changes the model: values that nothing cancels."""
    noise = np.random.default_rng(seed).normal(scale=0.1, size=made.initial.layout.size)
    return AdapterState(made.initial.layout, (made.initial.flat + noise).astype(np.float32))


@pytest.fixture(scope="session")
def tiny() -> LocatedBase:
    return locate_base("tiny")


def held(tiny: LocatedBase, dtype: torch.dtype = torch.float32) -> ResidentBase:
    compute = Compute(torch.device("cpu"), dtype)
    return ResidentBase(tiny.directory, tiny.reference.fingerprint, compute, seq_len=32)


@pytest.fixture(scope="module")
def tokenizer(tiny: LocatedBase) -> Tokenizer:
    return AutoTokenizer.from_pretrained(tiny.directory, trust_remote_code=False)


@pytest.fixture(scope="session")
def resident(tiny: LocatedBase) -> ResidentBase:
    return held(tiny)


@pytest.fixture(scope="session")
def blueprint(tiny: LocatedBase) -> AdapterTemplate:
    return designed(tiny, seed=11)
