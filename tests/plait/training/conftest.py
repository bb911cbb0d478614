"""The tiny base, loaded once for all tests of this package."""

from __future__ import annotations

import pytest
import torch

from plait.adapters import AdapterTask
from plait.adapters.method import AdapterRequest
from plait.training.bases import LocatedBase, locate_base
from plait.training.blueprint import AdapterTemplate, design, read_base_config
from plait.training.device import Compute
from plait.training.resident import ResidentBase


@pytest.fixture(scope="session")
def tiny() -> LocatedBase:
    return locate_base("tiny")


@pytest.fixture(scope="session")
def resident(tiny: LocatedBase) -> ResidentBase:
    compute = Compute(torch.device("cpu"), torch.float32)
    return ResidentBase(tiny.directory, tiny.reference.fingerprint, compute, seq_len=32)


@pytest.fixture(scope="session")
def blueprint(tiny: LocatedBase) -> AdapterTemplate:
    config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
    return design(config, AdapterRequest(rank=4, alpha=8), task=AdapterTask.CAUSAL_LM, seed=11)
