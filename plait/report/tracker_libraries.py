"""Trackers of libraries, which may be missing.

Where and under which project a library writes is its own business: ``WANDB_MODE``, ``MLFLOW_TRACKING_URI`` and the like
are read by it. None prints on stdout, where a run may print JSON.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import JsonValue

Begun: TypeAlias = tuple[Callable[[Mapping[str, float], int], object], Callable[[Sequence[Path]], object]]
"""A tracker of a run: ``log(values, step)`` takes figures by name (`plait.report.trackers`) at a round, which
never decreases; ``finish(files)`` takes the files of the report, and sends what is left."""

_PROJECT = "plait"
"""Project or experiment, unless the library's own variable names another."""
_MOST_CHARACTERS = 500  # of a parameter in MLflow


@dataclass(frozen=True)
class TrackedRun:
    """A run, for what begins its tracker.

    Attributes:
        name: of its directory. run_id: 32 hexadecimal digits of no other run.
        config: its settings under the keys that users write.
        folder: where the tracker may keep files of its own.
        resumed: whether the run goes on with what this tracker had before.
    """

    name: str
    run_id: str
    config: Mapping[str, JsonValue]
    folder: Path
    resumed: bool


def _tensorboard(run: TrackedRun) -> Begun:
    writer: Any = import_module("torch.utils.tensorboard").SummaryWriter(str(run.folder))
    if not run.resumed:
        writer.add_hparams(dict(run.config), metric_dict={})

    def log(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, global_step=step)
        writer.flush()

    def finish(files: Sequence[Path]) -> None:
        writer.add_text("files", "\n".join(f"- `{file.resolve()}`" for file in files))
        writer.close()

    return log, finish


def _wandb(run: TrackedRun) -> Begun:
    wandb: Any = import_module("wandb")
    begun = wandb.init(
        project=os.environ.get("WANDB_PROJECT", _PROJECT), name=run.name, dir=str(run.folder), id=run.run_id,
        resume="allow", config=dict(run.config), settings=wandb.Settings(console="off", silent=True),
    )  # fmt: skip

    def finish(files: Sequence[Path]) -> None:
        artifact = wandb.Artifact(f"report-{run.run_id}", type="report")
        for file in files:
            artifact.add_file(str(file))
        begun.log_artifact(artifact)
        begun.finish()

    return lambda values, step: begun.log(dict(values), step=step), finish


def _mlflow(run: TrackedRun) -> Begun:
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # By the client, which leaves the process's own active run alone.
    client: Any = import_module("mlflow").MlflowClient()
    name, tags = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT), {"plait.run": run.run_id}
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name)
    before = client.search_runs([experiment], f"tags.`plait.run` = '{run.run_id}'", max_results=1)
    begun = (before[0] if before else client.create_run(experiment, run_name=run.name, tags=tags)).info.run_id
    for key, value in () if before else run.config.items():
        if len(str(value)) <= _MOST_CHARACTERS:
            client.log_param(begun, key, value)

    def log(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            client.log_metric(begun, name, value, step=step)

    def finish(files: Sequence[Path]) -> None:
        for file in files:
            client.log_artifact(begun, str(file))
        client.set_terminated(begun)

    return log, finish


def _trackio(run: TrackedRun) -> Begun:
    library: Any = import_module("trackio")
    project, name = os.environ.get("TRACKIO_PROJECT", _PROJECT), f"{run.name}-{run.run_id[:8]}"
    with redirect_stdout(sys.stderr):
        begun = library.init(project, name=name, resume="allow", config=dict(run.config), embed=False)

    def finish(files: Sequence[Path]) -> None:
        with redirect_stdout(sys.stderr):
            for file in files:
                library.save(str(file), project=project)
            begun.finish()

    return lambda values, step: begun.log(dict(values), step=step), finish


LIBRARIES: Mapping[str, Callable[[TrackedRun], Begun]] = {
    "mlflow": _mlflow, "tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb
}  # fmt: skip
"""Trackers by name, which is also that of the package to install."""
