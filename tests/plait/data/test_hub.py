"""Data sets of the hub: through a stand-in for the loader, and through the real one with a cache and no network."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import datasets
import pytest
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError, DatasetNotFoundError

from plait.data import as_dataset, check_data_name
from plait.errors import ConfigError, DataError, MachineError, PlaitError

ROWS = [{"text": f"word {number}"} for number in range(20)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[object, ...]]:
    """What the loader is asked for; it has one data set with two splits."""
    found: list[tuple[object, ...]] = []

    def load(path: str, name: str | None = None, *, revision: str | None = None) -> Mock:
        found.append((path, name, revision))
        builder = Mock()
        builder.config.data_files = {"train": [f"hf://datasets/Owner/{path.rpartition('/')[2]}@0123abc/train.parquet"]}
        builder.as_dataset.return_value = datasets.DatasetDict(
            train=datasets.Dataset.from_list(ROWS), validation=datasets.Dataset.from_list(ROWS[:3])
        )
        return builder

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    monkeypatch.chdir(tmp_path)
    return found


@pytest.mark.parametrize(
    ("name", "asks"),
    [
        ("owner/name", ("owner/name", None, None)),
        ("owner/some.name-v1.0", ("owner/some.name-v1.0", None, None)),
        ("owner/name:en", ("owner/name", "en", None)),
        ("owner/name@v1", ("owner/name", None, "v1")),
        ("owner/name:en@refs/convert/parquet", ("owner/name", "en", "refs/convert/parquet")),
        ("hf://datasets/owner/name", ("owner/name", None, None)),
        ("https://huggingface.co/datasets/owner/name", ("owner/name", None, None)),
    ],
)
def test_a_name_is_asked_for_with_its_configuration_and_revision(asked, name, asks):
    dataset = as_dataset(name)
    assert asked == [asks]
    assert [record.text for record in dataset.records] == [row["text"] for row in ROWS]
    assert len(dataset.held_out) == 3
    assert len(as_dataset(name, split="validation").records) == 3


def test_a_file_or_folder_of_that_name_comes_first(asked):
    Path("owner").mkdir()
    with pytest.raises(DataError, match=r"cannot read 'owner/name': .* of the hub is hf://datasets/owner/name"):
        as_dataset("owner/name")
    Path("owner/name").write_text('{"text": "here"}')
    assert as_dataset("owner/name").records[0].text == "here"
    assert not asked
    assert as_dataset("hf://datasets/owner/name").held_out
    assert asked == [("hf://datasets/owner/name" if Path("owner/name").exists() else "owner/name", None, None)]


@pytest.mark.parametrize(
    "name", ["data/my.jsonl", "data/my.csv.gz", "chatterbot.jsonl", "./a/b", "/a/chatterbot", "a/b/c", "../b"]
)
def test_a_path_is_not_looked_for_on_the_hub(asked, name):
    with pytest.raises(DataError, match=r"cannot read '.*': No such file or directory"):
        as_dataset(name)
    with pytest.raises(DataError, match=r"cannot read '.*': No such file or directory"):
        check_data_name(name)
    assert not asked


_CONFIGS = (
    "Config name is missing.\nPlease pick one among the available configs: ['en', 'fr']\nExample of usage:\n\t`x`"
)
FAILS: dict[str, tuple[BaseException, type[PlaitError], str]] = {
    "offline": (ConnectionError("Couldn't reach"), MachineError, "the hub is out of reach and nothing is cached; con"),
    "unknown": (DatasetNotFoundError("x"), ConfigError, "data 'owner/name' is not on the hub, or not public; check"),
    "no tables": (DataFilesNotFoundError("x"), DataError, "data 'owner/name' holds no tables, expected Parquet"),
    "code": (
        RuntimeError("Dataset scripts are no longer supported, but found name.py"),
        DataError,
        "is code, which is never run; take its tables: --data owner/name@refs/convert/parquet",
    ),
    "configurations": (ValueError(_CONFIGS), ConfigError, "expected owner/name:CONFIG, one of: en, fr$"),
    "other columns": (DatasetGenerationError("secret\nsecret"), DataError, "cannot be read as a table .DatasetGen"),
    "other cached": (
        ValueError("Couldn't find cache for owner/name for config 'x'\nAvailable configs in the cache: ['en']"),
        MachineError,
        "the hub is out of reach and only en is cached",
    ),
    "full disk": (OSError(28, "No space left on device"), MachineError, "the disk is full"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILS)
def test_what_fails_is_told_in_one_line(monkeypatch, name):
    error, kind, message = FAILS[name]

    def load(*_: object, **__: object) -> object:
        raise error

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    with pytest.raises(kind, match=message) as caught:
        as_dataset("owner/name")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("again", ["", "::hf://datasets/owner/name@0123abc/a.zip"])
def test_a_card_cannot_name_files_of_this_machine(monkeypatch, tmp_path, again):
    """What a card's `data_files: /home/me/secret.jsonl` gives; the builder is a real one."""
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"text": "treasure"}\n')
    builder = datasets.load_dataset_builder("json", data_files=str(secret), cache_dir=str(tmp_path / "cache"))
    builder.config.data_files["train"][0] += again
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: builder)
    with pytest.raises(
        DataError, match=r"data 'owner/name' names the file '.*secret.jsonl.*', expected only files of i"
    ):
        as_dataset("owner/name")
    assert not list(tmp_path.glob("cache/**/*.arrow"))


@pytest.mark.parametrize(
    "file",
    [
        "hf://datasets/owner/name2@0123abc/a.json",
        "hf://datasets/me/private@0123abc/a.json",
        "http://localhost:8000/a.json",
        "file:///home/me/a.json",
        "hf://datasets/owner/name@0123abc/a.zip::/home/me/a.json",
    ],
)
def test_a_card_cannot_name_files_elsewhere(monkeypatch, file):
    builder = Mock()
    builder.config.data_files = {"train": ["hf://datasets/owner/name@0123abc/a.json", file]}
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: builder)
    with pytest.raises(DataError, match="expected only files of its own"):
        as_dataset("owner/name")
    builder.download_and_prepare.assert_not_called()


_CACHED = """
import sys
from datasets.packaged_modules.json.json import Json
Json(cache_dir=sys.argv[1], dataset_name="name", repo_id="owner/name", hash="0" * 40, base_path="",
     data_files={"train": sys.argv[2], "test": sys.argv[2]}).download_and_prepare()
"""
_READ = """
from plait.data import as_dataset
from plait.errors import PlaitError
try:
    dataset = as_dataset("owner/name")
    print(len(dataset.records), len(dataset.held_out), dataset.records[3].text)
    as_dataset("owner/other")
except PlaitError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_cached_data_set_needs_no_network(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    cache = str(tmp_path / "hf" / "datasets")
    subprocess.run([sys.executable, "-c", _CACHED, cache, str(data)], check=True, env=environment, capture_output=True)
    # Without the mark of local files, as the hub's are.
    (made,) = (tmp_path / "hf" / "datasets" / "owner___name").iterdir()
    made.rename(made.with_name("default"))
    done = subprocess.run(
        [sys.executable, "-c", _READ], check=True, env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    first, second = done.stdout.splitlines()
    assert first == "20 20 word 3"
    assert second.startswith("cannot load data 'owner/other': the hub is out of reach and nothing is cached; connect")
