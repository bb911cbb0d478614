from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from plait.features.page import catalogue


def test_what_has_not_changed_is_not_read_again(
    tmp_path: Path, write_ledger, small_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_ledger(small_run)
    read: list[Path] = []
    summary_of = catalogue._summary
    monkeypatch.setattr(catalogue, "_summary", lambda place: (read.append(place), summary_of(place))[1])
    runs = catalogue.Catalogue([run])
    (first,) = runs.list()
    assert runs.list() == [first]
    assert read == [run]
    aside = tmp_path / "aside"
    aside.write_text('{"rounds": 2}')
    aside.replace(run / "summary.json")
    assert runs.list() == [{**first, "rounds": 2}]
    # Of the same length, at another time.
    aside.write_text('{"rounds": 3}')
    os.utime(aside, (1, 1))
    aside.replace(run / "summary.json")
    assert runs.list() == [{**first, "rounds": 3}]
    assert len(read) == 3


def test_a_run_names_the_runs_that_it_has_begun_from(tmp_path: Path, small_run) -> None:
    for name in ("first", "second"):
        (tmp_path / name / "adapter").mkdir(parents=True)
        (tmp_path / name / "adapter" / "adapter_model.safetensors").write_text(name)
    digest = hashlib.sha256(b"first").hexdigest()
    parents = [{"digest": digest, "weight": 0.5, "frozen": True}, {"digest": "ab" * 32, "weight": 1.0, "frozen": False}]
    for name, begun in (("first", small_run[0]), ("second", {**small_run[0], "parents": parents})):
        (tmp_path / name / "ledger.jsonl").write_text(json.dumps(begun) + "\n")
    listed = catalogue.Catalogue([tmp_path]).list()
    assert {run["name"]: run.get("began_from") for run in listed} == {
        "first": None,
        "second": [{**parents[0], "run": "first"}, {**parents[1], "run": None}],
    }


@pytest.mark.parametrize("name", ["summary.json", "adapter/adapter_model.safetensors", "federation.jsonl"])
def test_a_pipe_in_a_run_blocks_no_reader(tmp_path: Path, small_run, name: str) -> None:
    parents = [{"digest": "ab" * 32, "weight": 1.0, "frozen": False}]
    begun = [{**small_run[0], "parents": parents}, *small_run[1:]]
    (tmp_path / "adapter").mkdir()
    (tmp_path / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in begun))
    os.mkfifo(tmp_path / name)
    shown = catalogue.Catalogue([tmp_path])
    (run,) = shown.list()
    assert isinstance(run, dict)
    assert run["finished"] is (begun[-1]["event"] == "run_finished")
