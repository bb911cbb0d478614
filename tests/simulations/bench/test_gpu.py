"""The order, time and failures of a GPU's measurements, with workers that measure nothing; what is said of outcomes."""

import pytest
import torch

from plait.training.device import Compute
from simulations.bench.gpu_cells import Cell, Kind, State
from simulations.bench.gpu_measure import Measure


@pytest.mark.slow
@pytest.mark.parametrize("four_bits", [False, pytest.param(True, marks=pytest.mark.extra("qlora"))])
def test_small_cells_are_measured_on_a_cpu(four_bits):
    measure = Measure(Compute(torch.device("cpu"), torch.float32))
    for way in ("plait", "PEFT"):
        cell = Cell(Kind.TRAIN, "tiny", four_bits, batch=2, seq_len=16, way=way, twice=True)
        outcome = measure.outcome(cell)
        assert outcome.state is State.DONE, outcome.reason
        assert (outcome.number("tokens_per_s") or 0) > 0
    if not four_bits:
        assert (measure.outcome(Cell(Kind.DEVICE)).number("tflops") or 0) > 0
        limited = measure.outcome(Cell(Kind.MEMORY, "tiny", batch=2, seq_len=16, limit_gb=8))
        assert limited.state is State.SKIPPED


def test_what_fails_is_an_outcome_with_its_reason():
    outcome = Measure(Compute(torch.device("cpu"), torch.float32)).outcome(Cell(Kind.TRAIN, "no-such-base"))
    assert outcome.state is State.FAILED
    assert "no-such-base" in outcome.reason
