"""The trackers against their real libraries, offline; each is read back with the library's own reader."""

import json
import os
import sqlite3
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plait.report.trackers import following

pytestmark = pytest.mark.slow

LOSSES = [(0, 4.0), (1, 3.5), (2, 3.0)]


@pytest.fixture
def tracked(run: Path, write, small_run, monkeypatch: pytest.MonkeyPatch, capsys) -> Callable[[str], Path]:
    """A run with a report, stopped once, and followed by a library that is told to stay on this machine."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(Path.cwd() / "trackio"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (Path.cwd() / "mlruns").as_uri())

    def track(name: str) -> Path:
        pytest.importorskip(name, reason="trackio is no development dependency: it needs another Pillow")
        (run / "report.html").write_text("<p>the report</p>")
        for events in (small_run[:16], small_run[16:]) if name != "wandb" else (small_run,):
            with following((name,), run, quiet=False):
                write(events)
        told = capsys.readouterr()
        assert "tracker" not in told.err
        assert told.out == ""
        return run

    return track


def test_tensorboard_s_event_files_hold_the_series(tracked):
    run = tracked("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run / "trackers" / "tensorboard"))
    read.Reload()
    assert [(scalar.step, scalar.value) for scalar in read.Scalars("held_out/loss")] == LOSSES
    of_bob = [(scalar.step, scalar.value) for scalar in read.Scalars("clients/bob/loss")]
    assert of_bob == [(0, 5.0), (1, 4.25), (2, 3.5)]


def test_mlflow_s_store_holds_the_series_and_the_report(tracked):
    tracked("mlflow")
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("plait")
    (run,) = client.search_runs([experiment.experiment_id])
    assert [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "held_out/loss")] == LOSSES
    assert run.data.params["partition"] == "natural:package"
    assert run.info.run_name == "first"
    assert "report.html" in {file.path for file in client.list_artifacts(run.info.run_id)}


def test_wandb_s_offline_run_holds_the_series_and_the_report(tracked):
    run = tracked("wandb")
    import wandb
    from wandb.proto import wandb_internal_pb2

    # A run's `finish` does not wait for its file to be closed; the end of the library's process does.
    wandb.teardown()
    (file,) = (run / "trackers" / "wandb").rglob("*.wandb")
    losses: list[tuple[int, float]] = []
    kinds: list[str] = []
    for data in records_of(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kinds.append(record.WhichOneof("record_type"))
        items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        if "held_out/loss" in items:
            losses.append((items["_step"], items["held_out/loss"]))
    assert losses == LOSSES
    assert "artifact" in kinds or "request" in kinds


def records_of(data: bytes) -> Iterator[bytes]:
    """The records of a W&B file: LevelDB's log format, blocks of 32 KiB with records in up to four pieces."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (1 << 15) - at % (1 << 15) < 7:
            at += (1 << 15) - at % (1 << 15)
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        whole = (b"" if kind in (1, 2) else whole) + data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield whole


def test_trackio_s_database_holds_the_series(tracked):
    tracked("trackio")
    (database,) = (Path.cwd() / "trackio").rglob("plait*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select step, metrics from metrics order by id").fetchall()
    found = [(step, json.loads(metrics)) for step, metrics in rows]
    assert [(step, values["held_out/loss"]) for step, values in found if "held_out/loss" in values] == LOSSES
    assert [path.name for path in (Path.cwd() / "trackio").rglob("report.html")] == ["report.html"]
