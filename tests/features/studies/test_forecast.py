"""The time of a run before it runs."""

from types import SimpleNamespace

import pytest
import torch

from plait.config import RunConfig
from plait.features.studies.forecast import _wall_s
from plait.training.device import Compute


@pytest.mark.parametrize(
    ("devices", "faster"), [("cpu", 1), ("cpu,cpu", 1), ("cuda:0,cuda:1", 2), ("cuda:0,cuda:1,cuda:0", 2)]
)
def test_entries_that_name_one_device_share_it(devices: str, faster: int) -> None:
    named = [Compute(torch.device(name), torch.float32) for name in devices.split(",")]
    run = SimpleNamespace(config=RunConfig(clients=6, device=devices), devices=named)
    alone = SimpleNamespace(config=RunConfig(clients=6), devices=named[:1])
    assert _wall_s(run, 1.0) * faster == pytest.approx(_wall_s(alone, 1.0))
