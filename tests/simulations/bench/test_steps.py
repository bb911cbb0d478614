"""What a step costs on a GPU, by calculation on the trainer's own code: ceilings that a change may not raise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from plait.training.step_memory import ALL_BLOCKS, StepMemory
from simulations.bench.dry_step import dry_step
from simulations.bench.steps import CELLS, COLUMNS, Cell, Figures, figures, figures_of, read_table, table, worse

COMMITTED = read_table((Path(__file__).parents[3] / "simulations" / "gpu" / "README.md").read_text(encoding="utf-8"))
# At most this much memory in GB, these kernels, and at least these tokens a second on an H100.
AIMS = {
    "llama-3.2-1b bf16 4x1024, blocks twice": (4.6, 1e9, 0),
    "llama-3.2-3b nf4 4x1024, blocks twice": (5.2, 1e9, 0),
    "llama-3.1-8b nf4 4x2048, blocks twice": (14.0, 1e9, 0),
    "llama-3.1-8b nf4 1x2048, blocks twice": (8.3, 1e9, 0),
    "llama-3.1-8b bf16 4x128": (1e9, 3000, 0),
    "llama-3.2-1b bf16 4x1024": (1e9, 1e9, 55_000),
    "llama-3.1-8b bf16 4x1024": (1e9, 1e9, 12_000),
}


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_step_costs_no_more_than_the_committed_table_says(cell: Cell) -> None:
    found = figures(cell)
    reasons = worse(found, COMMITTED[str(cell)])
    assert not reasons, f"{'; '.join(reasons)}; if this is meant, put the table of `plait bench steps` there"
    assert found.inside == 0, "a copy or a wait between the first block and the losses stalls the GPU"
    memory, kernels, *_ = found.columns
    most_memory, most_kernels, least_rate = AIMS.get(str(cell), (1e9, 1e9, 0))
    assert memory <= most_memory
    assert kernels <= most_kernels
    assert found.columns[COLUMNS.index("H100, tok/s")] >= least_rate


def test_the_committed_table_has_every_row() -> None:
    assert list(COMMITTED) == list(map(str, CELLS))


@pytest.mark.slow
def test_a_row_follows_from_a_few_blocks_as_if_all_had_been_run() -> None:
    cell = Cell(replace(CELLS[0].shape, four_bits=True), recomputed=True)
    whole = figures_of(dry_step(cell.shape, StepMemory(ALL_BLOCKS)), cell.tokens)
    assert figures(cell).columns == pytest.approx(whole.columns, rel=2e-3)


def test_a_table_is_read_as_it_was_written_and_what_is_worse_is_named() -> None:
    found = Figures((3.5, 2108.0, 120.0, 6.0, 5.0, 54010.0, 13732.0, 2986.0), 0)
    read = read_table("\n".join(["# A title", "", *table([(CELLS[0], found)]), "", "| other | table |"]))
    assert read == {str(CELLS[0]): found.columns}
    committed = read[str(CELLS[0])]
    assert not worse(found, committed)
    dearer = replace(found, columns=(3.6, 2108.0, 90.0, 7.0, 5.0, 60000.0, 13000.0, 2986.0))
    assert [each.split(" 1")[0].split(" 3.")[0].split(" 7")[0] for each in worse(dearer, committed)] == [
        "GB", "copies", "RTX 4090, tok/s"
    ]  # fmt: skip
