"""What `plait bench gpu` measures, and what is said of it. Knows no torch: the measuring is in `gpu_measure`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import product
from typing import Any

from plait.report.table import Table

SHAPES = ((4, 128), (4, 1024), (1, 2048))
SMALL_SHAPES = ((2, 32),)
LIMITS_GB = (8.0, 12.0, 24.0)
PREDICTED_WITHIN = 0.1


class Kind(StrEnum):
    """What is measured."""

    DEVICE = "device"
    SAME = "same"
    TRAIN = "train"
    MEMORY = "memory"


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        kind: what is measured.
        base: name of a base whose config is known.
        four_bits: whether the base is in NF4; else in two bytes (float32 on a CPU).
        twice: whether all blocks are computed twice (checkpointing).
        batch: sequences of a step.
        seq_len: tokens of a sequence.
        way: `plait`, or `PEFT` with Hugging Face's checkpointing.
        limit_gb: memory that the process may take; 0 for all.
        check: name of a check.
    """

    kind: Kind
    base: str = ""
    four_bits: bool = False
    twice: bool = False
    batch: int = 0
    seq_len: int = 0
    way: str = "plait"
    limit_gb: float = 0.0
    check: str = ""

    def __str__(self) -> str:
        words = [self.kind.value, self.check, self.base]
        if self.base:
            words += ["nf4" if self.four_bits else "whole", f"{self.batch}x{self.seq_len}"]
        if self.kind is Kind.TRAIN:
            words += ["blocks twice" if self.twice else "", self.way]
        if self.limit_gb:
            words.append(f"in {self.limit_gb:g} GB")
        return " ".join(filter(None, words))

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Cell:
        """What `to_json` wrote."""
        found: dict[str, Any] = json.loads(text)
        found["kind"] = Kind(found["kind"])
        return cls(**found)


class State(StrEnum):
    """How a measurement ended."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


Figures = Mapping[str, float | str | bool]


@dataclass(frozen=True)
class Outcome:
    """What was measured.

    Attributes:
        cell: its name.
        reason: of what was skipped or failed.
        figures: by name, units included.
    """

    cell: str
    state: State
    reason: str = ""
    figures: Figures = field(default_factory=dict[str, "float | str | bool"])

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """What `to_json` wrote."""
        found: dict[str, Any] = json.loads(text)
        found["state"] = State(found["state"])
        return cls(**found)

    def number(self, name: str) -> float | None:
        """A figure, if it was measured."""
        found = self.figures.get(name)
        return float(found) if isinstance(found, (int, float)) else None


def processes(bases: Sequence[str], checks: Sequence[str], *, on_gpu: bool) -> Iterator[Sequence[Cell]]:
    """All cells, in the order they matter; those of one sequence share a process and what it has loaded."""
    yield [Cell(Kind.DEVICE)]
    yield [Cell(Kind.SAME, check=name) for name in checks]
    shapes = SHAPES if on_gpu else SMALL_SHAPES
    for way, base, four_bits in product(("plait", "PEFT"), bases, (False, True)):
        yield [
            Cell(Kind.TRAIN, base, four_bits, twice, batch, seq_len, way)
            for (batch, seq_len), twice in product(shapes, (False, True))
        ]
    # Each limits its own process.
    batch, seq_len = (4, 2048) if on_gpu else SMALL_SHAPES[0]
    for base, limit_gb in product(bases, LIMITS_GB):
        yield [Cell(Kind.MEMORY, base, four_bits=True, batch=batch, seq_len=seq_len, limit_gb=limit_gb)]


def model_flops(multiplied: int, tokens: int) -> float:
    """Operations of a training step of a frozen base: a product forward and one back for each weight and token.

    Attention and the adapter are left out, and so is what is computed twice.
    """
    return 4.0 * multiplied * tokens


@dataclass(frozen=True)
class Goal:
    """What a figure should be.

    Attributes:
        cell: its name.
        figure: of the cell.
        bound: its value.
        least: whether the bound is the least that passes; else the most.
        card: part of the name of the card that it is meant for; empty for all.
    """

    cell: str
    figure: str
    bound: float
    least: bool = False
    card: str = ""


_RATE = "tokens_per_s"
GOALS = (
    Goal("train llama-3.2-1b whole 4x1024 plait", _RATE, 55_000, least=True, card="H100"),
    Goal("train llama-3.1-8b whole 4x1024 plait", _RATE, 12_000, least=True, card="H100"),
    Goal("train llama-3.1-8b whole 4x1024 blocks twice plait", _RATE, 8_500, least=True, card="H100"),
    Goal("train llama-3.1-8b nf4 4x1024 blocks twice plait", _RATE, 8_000, least=True, card="H100"),
    Goal("train llama-3.1-8b whole 4x1024 blocks twice plait", _RATE, 2_500, least=True, card="4090"),
    Goal("train llama-3.1-8b nf4 4x1024 blocks twice plait", _RATE, 2_400, least=True, card="4090"),
    Goal("train llama-3.1-8b whole 4x128 plait", "kernels", 3_000),
    Goal("train llama-3.1-8b nf4 1x2048 blocks twice plait", "peak_gb", 8.3),
    Goal("train llama-3.2-1b whole 4x1024 blocks twice plait", "peak_gb", 4.6),
)


@dataclass(frozen=True)
class Verdict:
    """Whether a goal is met.

    Attributes:
        goal: in words.
        found: the figure, in words.
    """

    goal: str
    found: str
    passed: bool


def verdicts(outcomes: Sequence[Outcome]) -> Iterator[Verdict]:
    """Of all that was measured: the device's numbers, predictions of memory, PEFT in the same cell, the goals."""
    by_name = {outcome.cell: outcome for outcome in outcomes}
    card = str(by_name["device"].figures.get("card", "")) if "device" in by_name else ""
    for outcome in outcomes:
        if outcome.state is State.FAILED:
            yield Verdict(outcome.cell, f"failed: {outcome.reason}", passed=False)
        yield from _same(outcome)
        yield from _predicted(outcome)
        if outcome.cell.endswith(" plait"):
            yield from _faster(outcome, by_name.get(outcome.cell.removesuffix("plait") + "PEFT"))
    for goal in GOALS:
        value = by_name[goal.cell].number(goal.figure) if goal.cell in by_name and goal.card in card else None
        if value is not None:
            passed = value >= goal.bound if goal.least else value <= goal.bound
            text = f"{goal.cell}: {goal.figure} {'at least' if goal.least else 'at most'} {goal.bound:,g}"
            yield Verdict(text, f"{value:,.4g}", passed)


def _same(outcome: Outcome) -> Iterator[Verdict]:
    difference, tolerance = outcome.number("difference"), outcome.number("tolerance")
    if difference is not None and tolerance is not None:
        yield Verdict(f"{outcome.cell}: within {tolerance:g} of the CPU", f"{difference:.2g}", difference <= tolerance)


def _predicted(outcome: Outcome) -> Iterator[Verdict]:
    peak, predicted = outcome.number("peak_gb"), outcome.number("predicted_gb")
    if peak and predicted:
        off = predicted / peak - 1
        text = f"{outcome.cell}: memory predicted within {PREDICTED_WITHIN:.0%}"
        yield Verdict(text, f"{predicted:.2f} GB for {peak:.2f}", abs(off) <= PREDICTED_WITHIN)


def _faster(ours: Outcome, theirs: Outcome | None) -> Iterator[Verdict]:
    rate, other = ours.number(_RATE), theirs.number(_RATE) if theirs else None
    if rate and other:
        yield Verdict(f"{ours.cell}: at least as fast as PEFT", f"{rate / other:.2f} times", rate >= other)


_COLUMNS = (_RATE, "mfu", "peak_gb", "predicted_gb", "kernels", "syncs", "difference", "tokens_per_s_rows", "gave_way")


def measured(outcomes: Iterable[Outcome]) -> Table:
    """Everything, for people."""
    rows = tuple(
        (outcome.cell, *(_shown(outcome.figures.get(name)) for name in _COLUMNS), _said(outcome))
        for outcome in outcomes
    )
    headings = ("", "tokens/s", "MFU", "GB", "GB predicted", "kernels", "syncs", "off", "gave way", "")
    return Table("Measured", headings, rows)


def judged(found: Iterable[Verdict]) -> Table:
    """All verdicts, for people."""
    rows = tuple((verdict.goal, verdict.found, "pass" if verdict.passed else "FAIL") for verdict in found)
    return Table("Goals", ("", "found", ""), rows)


def _shown(value: float | str | bool | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _said(outcome: Outcome) -> str:
    if outcome.state is State.DONE:
        return str(outcome.figures.get("said", ""))
    return f"{outcome.state.value}: {outcome.reason}"
