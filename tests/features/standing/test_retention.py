from __future__ import annotations

import os
from pathlib import Path

import pytest

from plait.features.standing.acts import Outcome
from plait.features.standing.retention import size_of, tidy_runs
from plait.features.standing.run_queue import RunQueue

RESULT = ("adapter/adapter_model.safetensors", "ledger.jsonl", "config.toml", "noise.key", "checkpoints/round-000002/x")
ROOM = ("spool/round-000001/alice.envelope", ".inbox/alice/1.train.0.answer", "checkpoints/round-000001/x")


@pytest.mark.parametrize(("keep", "tidied"), [(0, ["old", "new"]), (1, ["old"]), (2, []), (9, [])])
def test_older_runs_give_up_what_no_result_needs_and_nothing_else(tmp_path: Path, keep: int, tidied: list[str]) -> None:
    queue = RunQueue(tmp_path / "federation")
    for name in ("old", "new", "running"):
        queue.submit({}, by="olga", number=1, name=name)
        queue.begin_next(wait_s=1)
        for place in (*RESULT, *ROOM):
            (queue.folder(name) / place).parent.mkdir(parents=True, exist_ok=True)
            (queue.folder(name) / place).write_bytes(b"x" * 10)
        if name != "running":
            queue.end(name, Outcome.FINISHED)
    assert size_of(queue.folder("old")) == 80
    assert tidy_runs(queue, keep=keep) == 30 * len(tidied)
    for name in ("old", "new", "running"):
        left = {
            path.relative_to(queue.folder(name)).as_posix() for path in queue.folder(name).rglob("*") if path.is_file()
        }
        assert left == {*RESULT, *(() if name in tidied else ROOM)}, name
    assert tidy_runs(queue, keep=keep) == 0
    queue.close()


def test_a_folder_that_goes_while_it_is_measured_has_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "kept").write_bytes(b"x" * 10)
    (tmp_path / "link").symlink_to("kept")
    scan = os.scandir

    def scan_too_late(place: str | Path) -> object:
        if Path(place).name == "gone" and Path(place).exists():
            Path(place).rmdir()
        return scan(place)

    monkeypatch.setattr(os, "scandir", scan_too_late)
    assert size_of(tmp_path) == 10
    assert not (tmp_path / "gone").exists()
