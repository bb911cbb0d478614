"""The order, time and failures of a GPU's measurements, with workers that measure nothing; what is said of outcomes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from plait.training.device import Compute
from simulations.bench.gpu import measure_all
from simulations.bench.gpu_cells import Cell, Kind, Outcome, State, judged, measured, processes, verdicts
from simulations.bench.gpu_measure import Measure

TRAIN = Cell(Kind.TRAIN, "llama-3.2-1b", batch=4, seq_len=1024)
CELLS = [Cell(Kind.SAME, check=name) for name in "abcd"]


class Worker:
    """Takes ten seconds for each cell; some of them end it."""

    started = 0

    def __init__(self, clock: list[float], deadly: set[str]) -> None:
        Worker.started += 1
        self.clock, self.deadly = clock, deadly

    def measure(self, cell: Cell, within_s: float) -> Outcome | None:
        self.clock[0] += min(10.0, within_s)
        return None if cell.check in self.deadly else Outcome(str(cell), State.DONE)

    def close(self) -> None:
        pass


def outcomes(deadly: set[str], seconds: float) -> list[Outcome]:
    clock = [0.0]
    Worker.started = 0
    return list(measure_all([CELLS], lambda: Worker(clock, deadly), seconds=seconds, now=lambda: clock[0]))


def states(deadly: set[str], seconds: float) -> list[State]:
    return [outcome.state for outcome in outcomes(deadly, seconds)]


def test_a_process_that_ends_fails_its_cell_alone_and_another_goes_on() -> None:
    assert states({"b"}, 100) == [State.DONE, State.FAILED, State.DONE, State.DONE]
    assert Worker.started == 2


def test_what_is_left_when_the_time_is_over_is_skipped() -> None:
    assert states(set(), 15) == [State.DONE, State.DONE, State.SKIPPED, State.SKIPPED]
    assert Worker.started == 1


def test_a_cell_that_the_end_of_the_time_cuts_off_is_skipped_and_says_so() -> None:
    assert states({"b"}, 15) == [State.DONE, State.SKIPPED, State.SKIPPED, State.SKIPPED]
    assert "the time for all ended after 5 s" in outcomes({"b"}, 15)[1].reason


def test_every_cell_has_a_name_of_its_own_and_plait_s_and_peft_s_have_the_same_cells() -> None:
    cells = [cell for group in processes(["a", "b"], ["one"], on_gpu=True) for cell in group]
    assert len({str(cell) for cell in cells}) == len(cells)
    ours, theirs = ({replace(cell, way="") for cell in cells if cell.way == way and cell.kind is Kind.TRAIN}
                    for way in ("plait", "PEFT"))  # fmt: skip
    assert ours == theirs
    assert len(ours) == 2 * 2 * 2 * 3


def test_goals_are_judged_for_the_card_that_they_are_meant_for() -> None:
    ours, theirs = str(TRAIN), str(replace(TRAIN, way="PEFT"))

    def judge(card: str, rate: float, peak: float) -> dict[str, bool]:
        outcomes = [
            Outcome("device", State.DONE, figures={"card": card}),
            Outcome(ours, State.DONE, figures={"tokens_per_s": rate, "peak_gb": peak, "predicted_gb": 6.5}),
            Outcome(theirs, State.DONE, figures={"tokens_per_s": 50_000.0}),
            Outcome("same a", State.DONE, figures={"difference": 2e-4, "tolerance": 1e-4}),
            Outcome("same b", State.FAILED, "it broke"),
        ]
        assert len(measured(outcomes).rows) == len(outcomes)
        found = list(verdicts(outcomes))
        assert len(judged(found).rows) == len(found)
        return {verdict.goal.removeprefix(f"{ours}: "): verdict.passed for verdict in found}

    goal = "tokens_per_s at least 55,000"
    common = {"same a: within 0.0001 of the CPU": False, "same b": False}
    predicted, faster = "memory predicted within 10%", "at least as fast as PEFT"
    assert judge("NVIDIA H100", 54_000, 6.5) == {**common, predicted: True, faster: True, goal: False}
    assert judge("NVIDIA A100", 49_000, 8.0) == {**common, predicted: False, faster: False}


@pytest.mark.slow
@pytest.mark.parametrize("four_bits", [False, pytest.param(True, marks=pytest.mark.extra("qlora"))])
def test_small_cells_are_measured_on_a_cpu(four_bits: bool) -> None:
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


def test_what_fails_is_an_outcome_with_its_reason() -> None:
    outcome = Measure(Compute(torch.device("cpu"), torch.float32)).outcome(Cell(Kind.TRAIN, "no-such-base"))
    assert outcome.state is State.FAILED
    assert "no-such-base" in outcome.reason
