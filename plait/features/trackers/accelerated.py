"""The trackers of `accelerate.tracking`, each with what that library leaves to its caller: tables, files, going on.

Where and under which project they write is their own business: ``WANDB_MODE``, ``MLFLOW_TRACKING_URI`` and the like are
read by them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.features.trackers.tracker import TrackedRun

if TYPE_CHECKING:
    from plait.report.table import Table

PROJECT = "plait"
"""Project or experiment, unless the tracker's own variable names another."""


@dataclass(frozen=True)
class Kind:
    """One library.

    Attributes:
        module: that must be importable.
        make: its tracker of `accelerate` for a run.
        remember: the id by which it goes on.
    """

    module: str
    make: Callable[[TrackedRun], Any]
    remember: Callable[[Any], str]
    report: Callable[[Any, Sequence[Table], Sequence[Path]], None]


@dataclass
class AcceleratedTracker:
    """A tracker of `accelerate`."""

    kind: Kind
    _tracker: Any = field(default=None, init=False)

    def start(self, run: TrackedRun) -> str:
        """Begin or go on with a run of the library."""
        from accelerate import PartialState

        # It would take a GPU otherwise.
        PartialState(cpu=True)
        self._tracker = self.kind.make(run)
        self._tracker.start()
        if not run.memory:
            self._tracker.store_init_configuration(dict(run.config))
        return self.kind.remember(self._tracker)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send figures."""
        self._tracker.log(dict(values), step=step)

    def report(self, tables: Sequence[Table], files: Sequence[Path]) -> None:
        """Send tables and files."""
        self.kind.report(self._tracker, tables, files)

    def finish(self) -> None:
        """Send what is left."""
        self._tracker.finish()


def _library(name: str) -> Any:
    """A library that may not be installed; its types do not matter here."""
    return importlib.import_module(name)


def _tensorboard(run: TrackedRun) -> Any:
    from accelerate.tracking import TensorBoardTracker

    return TensorBoardTracker("", run.folder)


def _tensorboard_report(tracker: Any, tables: Sequence[Table], files: Sequence[Path]) -> None:
    for table in tables:
        tracker.writer.add_text(table.title, _markdown(table))
    named = [f"- `{file.resolve()}`" for file in files]
    tracker.writer.add_text("files", "\n".join(named))
    tracker.writer.flush()


def _markdown(table: Table) -> str:
    lines = [table.headings, ["---"] * len(table.headings), *table.rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"{text}\n\n{table.note}"


def _wandb(run: TrackedRun) -> Any:
    from accelerate.tracking import WandBTracker

    going_on = {"id": run.memory, "resume": "allow"} if run.memory else {}
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    return WandBTracker(project, name=run.name, dir=str(run.folder), **going_on)


def _wandb_report(tracker: Any, tables: Sequence[Table], files: Sequence[Path]) -> None:
    wandb = _library("wandb")

    for table in tables:
        rows = [list(row) for row in table.rows]
        tracker.run.log({f"tables/{table.title}": wandb.Table(columns=_different(table.headings), data=rows)})
    artifact = wandb.Artifact(f"report-{tracker.run.id}", type="report")
    for file in files:
        artifact.add_file(str(file))
    tracker.run.log_artifact(artifact)


def _mlflow(run: TrackedRun) -> Any:
    from accelerate.tracking import MLflowTracker

    # None is the place that MLflow itself chooses.
    return MLflowTracker(PROJECT, None, run_id=run.memory or None, run_name=run.name)


def _mlflow_report(tracker: Any, tables: Sequence[Table], files: Sequence[Path]) -> None:
    mlflow = _library("mlflow")

    del tracker
    for table in tables:
        names = _different(table.headings)
        columns = {name: [row[index] for row in table.rows] for index, name in enumerate(names)}
        mlflow.log_dict({"title": table.title, "columns": columns, "note": table.note}, f"tables/{table.title}.json")
    for file in files:
        mlflow.log_artifact(str(file))


def _trackio(run: TrackedRun) -> Any:
    from accelerate.tracking import TrackioTracker

    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    name = run.memory or run.name
    return TrackioTracker(project, name=name, resume="allow" if run.memory else "never", embed=False)


def _trackio_report(tracker: Any, tables: Sequence[Table], files: Sequence[Path]) -> None:
    import pandas as pd

    trackio = _library("trackio")

    for table in tables:
        frame = pd.DataFrame(list(table.rows), columns=_different(table.headings))
        tracker.run.log({table.title: trackio.Table(dataframe=frame)})
    for file in files:
        trackio.save(str(file), project=tracker.run.project)


def _different(names: Sequence[str]) -> list[str]:
    """Headings as names of columns, which must not be empty or twice the same."""
    return [
        name if name and names.count(name) == 1 else f"{name or 'column'} {index}" for index, name in enumerate(names)
    ]


KINDS: Mapping[str, Kind] = {
    "mlflow": Kind("mlflow", _mlflow, lambda tracker: str(tracker.active_run.info.run_id), _mlflow_report),
    "tensorboard": Kind("tensorboard", _tensorboard, lambda _: "", _tensorboard_report),
    "trackio": Kind("trackio", _trackio, lambda tracker: str(tracker.run.name), _trackio_report),
    "wandb": Kind("wandb", _wandb, lambda tracker: str(tracker.run.id), _wandb_report),
}
"""plait's own trackers by name."""
