from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from plait.data import BUILTINS, RecordKind, as_dataset
from plait.errors import ConfigError, DataError


def test_a_path_is_read_as_jsonl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.jsonl", "no_suffix"):
        Path(name).write_text(json.dumps({"text": "hello"}))
        dataset = as_dataset(name, cache=tmp_path, progress=print)
        assert (dataset.kind, len(dataset.records)) == (RecordKind.TEXT, 1)


def test_an_unknown_name_gives_the_nearest_and_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        as_dataset("chaterbot", cache=tmp_path, progress=print)
    assert str(caught.value).endswith("; did you mean 'chatterbot'?")
    assert all(name in str(caught.value) for name in BUILTINS)


def test_a_missing_path_is_said_to_be_a_missing_file(tmp_path: Path) -> None:
    for name in ("chatterbot.jsonl", str(tmp_path / "chatterbot")):
        with pytest.raises(DataError, match="No such file"):
            as_dataset(name, cache=tmp_path, progress=print)


@pytest.mark.slow
def test_importing_the_room_imports_nothing_slow() -> None:
    code = "import sys, plait.data; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert not {"datasets", "flwr_datasets", "numpy", "torch", "yaml"}.intersection(done.stdout.split())


@pytest.mark.slow
def test_chatterbot_is_fetched_from_the_registry_once(tmp_path: Path) -> None:
    said: list[str] = []
    dataset = as_dataset("chatterbot", cache=tmp_path, progress=said.append)
    assert said
    assert dataset.kind is RecordKind.PROMPT
    assert len(dataset.records) > 7000
    assert len(set(dataset.column("language"))) == 28
    assert {dataset.natural_column, "topic"} <= set(dataset.column_names)
    said.clear()
    assert as_dataset("chatterbot", cache=tmp_path, progress=said.append) == dataset
    assert not said
