"""Trackers from the command line, on a real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

WEIGHTS = "adapter/adapter_model.safetensors"

_MINE = """
import json, os

class Notes:
    def start(self, run):
        return ""
    def log(self, values, step):
        with open(os.environ["OUT"], "a") as file:
            file.write(json.dumps([step, values]) + "\\n")
    def report(self, tables, files):
        with open(os.environ["OUT"], "a") as file:
            file.write(json.dumps(["report", [each.name for each in files]]) + "\\n")
    def finish(self):
        pass

class Breaks(Notes):
    def log(self, values, step):
        raise SystemExit("broken")
"""


def test_a_run_with_trackers_that_work_and_fail_is_the_run_without(
    plait, original: Path, tmp_path: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUT", str(tmp_path / "got.jsonl"))
    (tmp_path / "mine.py").write_text(_MINE)
    ran = plait(
        "simulate", "--data", original / "my.jsonl", "--partition", "natural:author", "--clients", 3, *small,
        "--learning-rate", 1e-2, "--dtype", "float32", "--out", "run", "--report-to", "mine:Notes,mine:Breaks",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (original / "run" / WEIGHTS).read_bytes()
    assert "tracker mine:Breaks failed: broken" in ran.err
    assert "tracker mine:Notes" not in ran.err
    *logs, last = [json.loads(line) for line in (tmp_path / "got.jsonl").read_text().splitlines()]
    assert [step for step, values in logs if "held_out/loss" in values] == [0, 1, 2]
    assert last[0] == "report"
    assert {"report.html", "summary.json"} <= set(last[1])
    assert plait("verify", "run").code == 0
    (tmp_path / "got.jsonl").unlink()
    assert plait("track", "run", "--to", "mine:Notes").code == 0
    assert [json.loads(line) for line in (tmp_path / "got.jsonl").read_text().splitlines()] == [*logs, last]
    failed = plait("track", "run", "--to", "mine:Breaks")
    assert failed.code == 1
    assert "error: tracker mine:Breaks failed: broken" in failed.err


def test_an_unknown_tracker_is_refused_before_anything_is_loaded(plait, tmp_path: Path) -> None:
    ran = plait("simulate", "--base", "tiny", "--report-to", "wandbb", "--out", tmp_path / "run")
    assert ran.code == 2
    assert "report-to is 'wandbb', expected none, mlflow, tensorboard, trackio, wandb, or MODULE:CLASS" in ran.err
    assert not (tmp_path / "run").exists()
