"""What a step of training costs on a GPU, for bases and batches that edge cards meet: `plait bench steps`.

Blocks are alike, so a step is run without values (`dry_step`) with two and with four of them, and every cost follows
for as many as the base has. The committed table is also the ceiling of every figure in it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from plait.training.step_memory import ALL_BLOCKS, StepMemory
from simulations.bench.dry_step import StepCosts, StepShape, dry_step
from simulations.bench.roofline import GPUS, busy_seconds, step_seconds

_FEW, _MORE = 2, 4
COLUMNS = ("GB", "kernels", "GB moved", "copies", "waits", *(f"{gpu.name}, tok/s" for gpu in GPUS))
"""Columns of figures. The last ones are better the higher they are, all others the lower."""
RATES = len(GPUS)
"""How many of them are rates."""


@dataclass(frozen=True)
class Cell:
    """A row of the table.

    Attributes:
        shape: what is trained.
        recomputed: whether all blocks are computed twice.
    """

    shape: StepShape
    recomputed: bool = False

    def __str__(self) -> str:
        return f"{self.shape}{', blocks twice' if self.recomputed else ''}"

    @property
    def tokens(self) -> int:
        """Of a step."""
        return sum(self.shape.lengths)


@dataclass(frozen=True)
class Figures:
    """A row's figures.

    Attributes:
        columns: as `COLUMNS` names them.
        inside: copies and waits between the first block and the losses.
    """

    columns: tuple[float, ...]
    inside: float

    def __str__(self) -> str:
        memory, kernels, moved, *rest = self.columns
        return " | ".join((f"{memory:.2f}", f"{kernels:,.0f}", f"{moved:,.0f}", *(f"{each:,.0f}" for each in rest)))


def _cells() -> Iterator[Cell]:
    for base in ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b"):
        for seq_len in (1024, 2048):
            for four_bits in (False, True):
                for recomputed in (False, True):
                    yield Cell(StepShape(base, 4, seq_len, four_bits=four_bits), recomputed)
    yield Cell(StepShape("llama-3.1-8b", 1, 2048, four_bits=True), recomputed=True)
    yield Cell(StepShape("llama-3.2-1b", 4, 128))
    yield Cell(StepShape("llama-3.1-8b", 4, 128))
    yield Cell(StepShape("llama-3.1-8b", 8, 1024, chats=True))


CELLS = tuple(_cells())


def figures(cell: Cell) -> Figures:
    """Calculate a row."""
    few, more = (
        _numbers(dry_step(replace(cell.shape, layers=layers), StepMemory(ALL_BLOCKS if cell.recomputed else 0)))
        for layers in (_FEW, _MORE)
    )
    layers = cast("int", cell.shape.config().num_hidden_layers)
    return _figures(few + (more - few) / (_MORE - _FEW) * (layers - _FEW), cell.tokens)


def figures_of(costs: StepCosts, tokens: int) -> Figures:
    """A row's figures, of a step that was run with all blocks."""
    return _figures(_numbers(costs), tokens)


def table(rows: Iterable[tuple[Cell, Figures]]) -> Iterator[str]:
    """Lines of Markdown."""
    yield f"| | {' | '.join(COLUMNS)} |"
    yield f"|---|{'---:|' * len(COLUMNS)}"
    for cell, found in rows:
        yield f"| {cell} | {found} |"


def read_table(text: str) -> Mapping[str, tuple[float, ...]]:
    """The columns of every row in a text that holds a table, by the row's name."""
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|"))
    return {
        name: tuple(float(each.replace(",", "")) for each in columns)
        for name, *columns in rows
        if len(columns) == len(COLUMNS) and columns[0][:1].isdigit()
    }


def worse(found: Figures, committed: tuple[float, ...], *, slack: float = 0.01) -> list[str]:
    """Names of the columns that are worse than committed by more than a slack, with both figures."""
    names: list[str] = []
    for number, (name, now, then) in enumerate(zip(COLUMNS, found.columns, committed, strict=True)):
        rate = number >= len(COLUMNS) - RATES
        # Half a unit of the last digit that the table has.
        rounding = 0.005 if name == "GB" else 0.5
        if (now < then * (1 - slack) - rounding) if rate else (now > then * (1 + slack) + rounding):
            names.append(f"{name} {now:,.2f}, was {then:,.2f}")
    return names


def _numbers(costs: StepCosts) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    busy = [busy_seconds(costs.operations, gpu) for gpu in GPUS]
    counted = (costs.peak_bytes, costs.launches, costs.moved_bytes, costs.to_device, costs.waits, costs.inside)
    gc.collect()
    return np.array([*counted, *busy], np.float64)


def _figures(numbers: np.ndarray[tuple[int], np.dtype[np.float64]], tokens: int) -> Figures:
    peak, kernels, moved, copies, waits, inside, *busy = numbers.tolist()
    rates = (tokens / step_seconds(each, kernels, gpu) for each, gpu in zip(busy, GPUS, strict=True))
    return Figures((peak / 1e9, kernels, moved / 1e9, copies, waits, *rates), inside)
