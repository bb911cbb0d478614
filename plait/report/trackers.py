"""The trackers of a run, each in a thread that reads the ledger as it grows; none of them changes or delays the run.

Of the figures ``held_out/…`` are means over all clients, ``clients/NAME/…`` are a client's own, ``round/…`` are of the
aggregation and ``bytes/…`` of all traffic so far. No name is the beginning of another one's path, so that they can be
files. Libraries may be missing; none prints on stdout, where a run may print JSON.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import JsonValue

from plait.ledger.events import Evaluated, Event, MeanScore, RoundFinished, RunStarted, Score, UpdateReceived
from plait.ledger.ledger import Follower
from plait.ledger.run_now import RunNow
from plait.own_code import place_of
from plait.report.terminal import say
from plait.system.files import make_private_directory
from plait.system.text import printable

GRACE_S = 30.0
"""How long the trackers of a run may take to finish once it is over."""
_PAUSE_S = 0.5


@contextmanager
def following(trackers: tuple[str, ...], run: Path, *, quiet: bool) -> Generator[None]:
    """The trackers of a run follow it while the block runs; the run continues even if they fail.

    Args:
        trackers: names of `LIBRARIES`.
        quiet: whether to print nothing of one that fails.
    """
    threads = [_Following(run, name) for name in trackers]
    for each in threads:
        each.start()
    try:
        yield
    finally:
        end = time.monotonic() + GRACE_S
        for each in threads:
            each.over.set()
        for each in threads:
            each.join(max(0.0, end - time.monotonic()))
            failure = f"did not finish within {GRACE_S:g} s" if each.is_alive() else each.failure
            if failure:
                say(f"tracker {each.tracker} {failure}", quiet=quiet)


class _Following(threading.Thread):
    """One tracker at work.

    Attributes:
        over: set once the run is over.
        failure: what went wrong, in a line; empty if nothing did.
    """

    def __init__(self, run: Path, tracker: str) -> None:
        super().__init__(name=f"plait-tracker-{tracker}", daemon=True)
        self.tracker, self.over, self.failure = tracker, threading.Event(), ""
        self._run, self._follower = run, Follower(run / "ledger.jsonl")
        # What is there already the tracker had before the run was stopped.
        self._before = self._follower.new_events()

    def run(self) -> None:
        """Hand the run to the tracker, until its end."""
        try:
            self._track()
        except BaseException as error:  # a library may even exit
            error_text = printable(f"{type(error).__name__}: {error}", limit=300)
            self.failure = f"failed: {error_text}{place_of(error)}"

    def _track(self) -> None:
        begun, series, is_over, asked = None, Series(), False, -1
        for event in self._before:
            series.of(event)
        events = [event for event in self._before if isinstance(event, RunStarted)]  # begins the tracker
        while not is_over:
            is_over = self.over.is_set()
            for event in (*events, *self._follower.new_events()):
                figures = series.of(event)
                if isinstance(event, RunStarted):
                    folder = self._run / "trackers" / self.tracker
                    make_private_directory(folder)
                    name, asked = self._run.resolve().name, event.config.get("samples", -1)
                    begun = LIBRARIES[self.tracker](
                        TrackedRun(name, event.run, event.config, folder, bool(self._before))
                    )
                elif begun and figures:
                    begun[0](figures[1], figures[0])
            events = []
            if not is_over:
                self.over.wait(_PAUSE_S)
        if begun:
            # A report with text of records, as --samples asks for it, does not leave the run's directory.
            names = ("report.html", "summary.json") if asked in (-1, 0) else ("summary.json",)
            files = [file for name in names if (file := self._run / name).exists()]
            begun[1]([*files, *sorted(self._run.glob("*.png"))])


_OF_UPDATE = ("train_loss", "first_loss", "reward", "tokens", "train_s", "uplink_bytes", "distortion")
_OF_SCORE = ("loss", "loss_margin", "change", "change_margin", "accuracy", "reward_margin")
_OF_ROUND = ("received", "refused", "update_norm", "wall_s")


@dataclass
class Series:
    """The figures of one run, event by event."""

    _now: RunNow = field(default_factory=RunNow, init=False)
    _newest: int = field(default=0, init=False)

    def of(self, event: Event) -> tuple[int, Mapping[str, float]] | None:
        """The round and the figures of an event; None if it has none.

        Rounds never decrease: what an asynchronous run records of an earlier one, as its evaluation, is at the newest.
        """
        self._now.take(event)
        match event:
            case UpdateReceived():
                step, values = event.counted_in, _named(f"clients/{event.client}/", event, _OF_UPDATE)
            case RoundFinished():
                step, values = event.round, _named("round/", event, _OF_ROUND)
                if measured := event.diagnostics:
                    values |= {f"clients/{client}/update_norm": each for client, each in measured.update_norms.items()}
                    values |= {f"clients/{client}/drift": each for client, each in measured.drift.items()}
                    values |= {"round/agreement": measured.agreement, "round/aggregation_error": measured.error}
            case Evaluated():
                sent = self._now.sent
                step, values = event.round, _of_mean("held_out", "", event)
                values |= _of_mean("held_out_personalized", "personalized_", event.own) if event.own else {}
                values |= {"bytes/uplink": sent.uplink_bytes, "bytes/downlink": sent.downlink_bytes}
            case _ if event.logged:
                step, values = vars(event)["round"], dict(event.logged)
            case _:
                return None
        self._newest = max(self._newest, step)
        return self._newest, {name: float(value) for name, value in values.items() if value is not None}


def _named(prefix: str, event: object, names: tuple[str, ...]) -> dict[str, float | None]:
    return {f"{prefix}{name}": getattr(event, name) for name in names}


def _of_mean(group: str, prefix: str, mean: MeanScore) -> dict[str, float | None]:
    values = _scored(f"{group}/", mean)
    for client, score in mean.by_client.items():
        values |= _scored(f"clients/{client}/{prefix}", score)
    return values


def _scored(prefix: str, score: Score) -> dict[str, float | None]:
    metrics = {f"{prefix}{name}": value for name, value in (score.metrics or {}).items()}
    return metrics | _named(prefix, score, _OF_SCORE)


Begun: TypeAlias = tuple[Callable[[Mapping[str, float], int], object], Callable[[Sequence[Path]], object]]
"""A tracker of a run: ``log(values, step)`` takes figures by name at a round, which
never decreases; ``finish(files)`` takes the files of the report, and sends what is left."""

_PROJECT = "plait"
"""Project or experiment, unless the library's own variable names another."""
_MOST_CHARACTERS = 500  # of a parameter in MLflow


@dataclass(frozen=True)
class TrackedRun:
    """A run, for what begins its tracker."""

    name: str  # of its directory
    run_id: str  # 32 hexadecimal digits of no other run
    config: Mapping[str, JsonValue]  # its settings under the keys that users write
    folder: Path  # where the tracker may keep files of its own
    resumed: bool  # whether the run goes on with what this tracker had before


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
