from __future__ import annotations

import os
from pathlib import Path

import pytest

from plait.page import catalogue


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
