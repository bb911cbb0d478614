"""What a step costs on a GPU, by calculation on the trainer's own code: ceilings that a change may not raise."""

from __future__ import annotations

import pytest

from plait.training.step_memory import ALL_BLOCKS, StepMemory
from simulations.bench.dry_step import StepShape, dry_step

# Memory in GB, kernels, and gigabytes that all kernels read and write; each a little above what it is today.
CEILINGS = {
    (StepShape("llama-3.2-1b", 4, 1024), True): (3.5, 2200, 121),
    (StepShape("llama-3.2-3b", 4, 1024, four_bits=True), True): (4.0, 5300, 255),
    (StepShape("llama-3.1-8b", 4, 2048, four_bits=True), True): (10.4, 6100, 790),
    (StepShape("llama-3.1-8b", 1, 2048, four_bits=True), True): (7.5, 5800, 271),
    (StepShape("llama-3.1-8b", 4, 128), False): (18.8, 2950, 73),
}


@pytest.mark.parametrize(("cell", "ceilings"), CEILINGS.items(), ids=lambda value: str(value[0]))
def test_a_step_costs_no_more_than_before(cell: tuple[StepShape, bool], ceilings: tuple[float, int, int]) -> None:
    shape, recompute = cell
    costs = dry_step(shape, StepMemory(recomputed=ALL_BLOCKS if recompute else 0))
    found = (costs.peak_bytes / 1e9, costs.launches, costs.moved_bytes / 1e9)
    assert all(each <= most for each, most in zip(found, ceilings, strict=True)), found
    assert costs.inside == 0, "a copy or a wait between the first block and the losses stalls the GPU"


def test_a_model_that_peft_computes_holds_no_logits_of_all_positions() -> None:
    shape = StepShape("llama-3.2-1b", 4, 1024, layers=2, fused=False)
    costs = dry_step(shape)
    assert costs.peak_bytes - costs.resident_bytes < 4 * 1024 * 128256 * 4, "all logits alone, in float32"
