"""A sweep: all runs of a grid, with base and data loaded once; it continues where it was stopped.

OUT/cells/NAME    the run directories; `plait report`, `resume` and `export` take them as any others
    results.jsonl one line per run: its place in the grid, its state, its figures
    results.csv   the same

A run that fails does not end the sweep. Every adapter is that of `plait simulate` with the same settings, bit for bit.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from plait.config import config_from_table
from plait.errors import ConfigError, Interrupted, PlaitError
from plait.features.studies.comparison import RUN_COLUMNS, Comparison, comparison_of, figures_of_run
from plait.features.studies.given import is_done
from plait.features.studies.grid import Cell, Grid, Settings, out_of, read_grid
from plait.features.studies.runs import Group, StudiedRun
from plait.files import cannot_write, lock, write_atomically
from plait.frames import COUNT, NUMBER, TEXT, frame_of, view_of
from plait.rounds.run_directory import check_stays_inside
from plait.rounds.stop import StopRequest

if TYPE_CHECKING:
    import pandas as pd

    from plait.adapters import Json  # brings numpy along

CELLS = "cells"
"""The directory of a sweep's runs, in its own."""

_RESULTS, _CSV, _LOCK = "results.jsonl", "results.csv", ".lock"
_FIGURES = tuple(name for name, kind in RUN_COLUMNS.items() if kind in (NUMBER, COUNT) and name != "seed")


@dataclass(frozen=True)
class State:
    """The state of a run of a sweep.

    Attributes:
        status: ``waiting``, ``finished``, ``failed`` or ``interrupted``.
        error: why it failed; empty if it did not.
        figures: what it measured, under the columns of `Comparison.frame`; empty unless it has finished.
    """

    status: str = "waiting"
    error: str = ""
    figures: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Sweep:
    """The runs of a grid and what they measured.

    Attributes:
        path: the sweep's directory.
        grid: its runs.
        states: by name of the run.
    """

    path: Path
    grid: Grid
    states: Mapping[str, State]

    def __repr__(self) -> str:
        return f"<plait.Sweep '{self.path}': {len(self.states)} runs, {len(self.failed)} failed>"

    @property
    def frame(self) -> pd.DataFrame:
        """One row per run: ``run``, ``status``, ``error``, a column per axis, ``seed`` and the figures.

        The figures are those of `Comparison.frame`; NaN where the run has not finished.
        """
        figures = dict.fromkeys(_FIGURES, NUMBER)
        texts = dict.fromkeys(("run", "status", "error", *self.grid.axes), TEXT)
        return frame_of(self.rows(), {**texts, "seed": COUNT, **figures})

    @property
    def failed(self) -> Mapping[str, str]:
        """Why runs failed, by name."""
        return {name: state.error for name, state in self.states.items() if state.status == "failed"}

    @property
    def comparison(self) -> Comparison:
        """The finished runs compared; the baseline is the place in the grid with the lowest mean loss.

        Raises:
            ConfigError: none has finished.
        """
        labels = {
            self.path / CELLS / cell.name: cell.label
            for cell in self.grid.cells
            if self.states[cell.name].status == "finished"
        }
        if not labels:
            raise ConfigError(f"no run of '{self.path}' has finished, so there is nothing to compare")
        found = comparison_of(list(labels), labels=labels)

        def loss(group: Group) -> float:
            mean = found.figures_of(group).loss
            return float("inf") if mean is None else mean

        return Comparison(found.groups, min(found.groups, key=loss))

    def rows(self) -> list[dict[str, Json]]:
        """One row per run, in the order of the grid; what is unknown is None."""
        return [
            {
                "run": cell.name,
                "status": self.states[cell.name].status,
                "error": self.states[cell.name].error,
                **{axis: cell.place.get(axis, "") for axis in self.grid.axes},
                "seed": cell.seed,
                **{name: self.states[cell.name].figures.get(name) for name in _FIGURES},
            }
            for cell in self.grid.cells
        ]


OnRun = Callable[[Cell, State, Sweep], None]


def sweep(
    grid: str | Path | Settings,
    *,
    out: str | Path | None = None,
    given: Settings | None = None,
    seeds: Sequence[int] = (),
    jobs: int = 1,
    stop: StopRequest | None = None,
    on_run: OnRun = lambda _cell, _state, _sweep: None,
) -> Sweep:
    """Run all runs of a grid that are not finished yet.

    Args:
        grid: the path of a file (see `plait.features.studies.grid`), or its content as a table.
        out: the sweep's directory; by default that of the grid, or ``runs/`` and the name of the file.
        given: settings that replace those common to all runs.
        seeds: in place of the grid's.
        jobs: processes side by side; each loads the base, and uses as many threads as ``threads`` says.
        stop: asks the sweep to stop; the same call continues it.
        on_run: called with every run that ends, and with those finished before.

    Returns:
        All runs. It names those that failed; the next call tries them again.

    Raises:
        ConfigError: the grid is not valid, none of its runs is, or `out` holds other runs.
        Interrupted: the sweep was asked to stop.
    """
    plan = read_grid(grid, given=given, seeds=seeds)
    path = Path(out) if out is not None else out_of(grid)
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}, expected at least 1")
    several = next((cell for cell in plan.cells if "," in str(cell.settings.get("device", ""))), None)
    if several and jobs > 1:
        raise ConfigError(
            f"jobs is {jobs} and device is '{several.settings['device']}', expected jobs to be 1: every run has a "
            "process for each of its devices"
        )
    states = {cell.name: State() for cell in plan.cells}
    refused = {cell.name: error for cell in plan.cells if (error := _refusal(cell))}
    if len(refused) == len(plan.cells):
        raise next(iter(refused.values()))
    stop = stop or StopRequest()
    paths = {cell.name: path / CELLS / cell.name for cell in plan.cells}
    with _kept(path):
        found = Sweep(path, plan, states)
        for cell in plan.cells:
            if cell.name in refused:
                states[cell.name] = State("failed", str(refused[cell.name]))
            elif is_done(cell.settings, paths[cell.name]):
                states[cell.name] = _finished(paths[cell.name])
            if states[cell.name].status != "waiting":
                on_run(cell, states[cell.name], found)
        _write(found)
        waiting = [cell for cell in plan.cells if states[cell.name].status == "waiting"]
        if waiting:
            # Loads torch, which a sweep that is finished does not need.
            from plait.features.studies.workers import in_processes, in_this_process

            doing = in_processes(waiting, paths, stop, jobs) if jobs > 1 else in_this_process(waiting, paths, stop)
            with contextlib.closing(doing):
                for cell, outcome in doing:
                    state = State("interrupted") if outcome.interrupted else State("failed", outcome.error)
                    if not (outcome.interrupted or outcome.error):
                        state = _finished(paths[cell.name])
                    states[cell.name] = state
                    _write(found)
                    on_run(cell, state, found)
        if stop.asked:
            raise Interrupted("stopped by the user; everything done so far is saved")
    return found


def _refusal(cell: Cell) -> PlaitError | None:
    try:
        config_from_table(cell.settings, where=cell.name)
    except PlaitError as error:
        return error
    return None


def _finished(path: Path) -> State:
    return State("finished", figures=figures_of_run(StudiedRun(path, view_of(path))))


def _write(found: Sweep) -> None:
    rows = found.rows()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(found.path / _RESULTS, lines.encode())
    # Not by pandas, which takes longer to load than a hundred rows to write.
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(found.path / _CSV, table.getvalue().encode())


@contextlib.contextmanager
def _kept(path: Path) -> Generator[None]:
    """Keep the directory for this process."""
    if path.exists():
        check_stays_inside(path)
    try:
        (path / CELLS).mkdir(parents=True, exist_ok=True)
        file: FileIO = (path / _LOCK).open("ab", buffering=0)
    except OSError as error:
        raise cannot_write(path, error, doing="make") from error
    with file:
        if not lock(file):
            raise ConfigError(f"'{path}' is in use by another sweep, expected one at a time")
        yield
