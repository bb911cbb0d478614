"""Data in memory: every kind of object gives the records that the same rows give as JSON lines."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from plait.data import Dataset, Message, Record, RecordKind, as_dataset
from plait.errors import ConfigError, DataError

ROWS = [
    {"text": f"word {number}", "author": "ada" if number % 3 else "bob", "year": 1900 + number} for number in range(200)
]


@pytest.fixture
def expected(tmp_path: Path) -> Dataset:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return as_dataset(path)


def _generated() -> Iterator[dict[str, object]]:
    yield from ROWS


OBJECTS: dict[str, Callable[[], object]] = {
    "list": lambda: ROWS,
    "generator": _generated,
    "frame": lambda: pd.DataFrame(ROWS),
    "arrow": lambda: pa.Table.from_pylist(ROWS),
    "datasets": lambda: datasets.Dataset.from_list(ROWS),
    "torch format": lambda: datasets.Dataset.from_list(ROWS).with_format("numpy"),
    "shuffled back": lambda: datasets.Dataset.from_list(ROWS[::-1]).select(range(199, -1, -1)),
    "streaming": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "streaming without features": lambda: datasets.IterableDataset.from_generator(_generated),
    "one split": lambda: datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)),
}


@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS)
def test_an_object_gives_the_records_of_its_rows(expected, make):
    dataset = as_dataset(make())
    assert dataset.records == expected.records
    assert dataset.fingerprint == expected.fingerprint
    assert (dataset.name, dataset.kind, dataset.held_out) == ("data", RecordKind.TEXT, ())


def test_the_validation_split_is_held_out_and_the_rest_is_said_to_be_left():
    splits = {"test": ROWS[:2], "train": ROWS[2:100], "validation": ROWS[100:], "unsupervised": ROWS[:1]}
    data = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})
    dataset = as_dataset(data, name="mine")
    assert [record.text for record in dataset.records] == [row["text"] for row in ROWS[2:100]]
    assert [record.text for record in dataset.held_out] == [row["text"] for row in ROWS[100:]]
    assert dataset.notes == ("data 'mine': split test, unsupervised is not used",)
    streamed = datasets.IterableDatasetDict({name: part.to_iterable_dataset() for name, part in data.items()})
    assert as_dataset(streamed, name="mine") == dataset
    chosen = as_dataset(data, split="test,train[1:3]")
    assert [len(chosen.records), [record.text for record in chosen.held_out]] == [2, ["word 3", "word 4"]]
    assert as_dataset(data, split="train").held_out == ()


def test_splits_without_one_to_train_on_are_named():
    data = datasets.DatasetDict(en=datasets.Dataset.from_list(ROWS), fr=datasets.Dataset.from_list(ROWS))
    with pytest.raises(ConfigError, match="has the splits en, fr; give --split with the one to train on"):
        as_dataset(data)
    with pytest.raises(ConfigError, match=r"split is 'frr', expected one of data 'data': en, fr; did you mean 'fr'"):
        as_dataset(data, split="frr")


def test_classes_have_their_names_and_pictures_are_left_out():
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["bad", "good"]), thumb=datasets.Value("binary")
    )
    rows = [{"text": "a", "label": 1, "thumb": b"\x00"}, {"text": "b", "label": 0, "thumb": None}]
    data = datasets.Dataset.from_list(rows, features=features)
    for source in (data, data.to_iterable_dataset()):
        dataset = as_dataset(source)
        assert dataset.labels == ("bad", "good")
        assert dataset.records == (Record(text="a", label="good"), Record(text="b", label="bad"))


def test_missing_values_of_a_frame_are_no_values():
    frame = pd.DataFrame({
        "text": ["a", "b"], "year": [1999.0, np.nan], "when": [pd.Timestamp("2020-01-02"), pd.NaT],
        "tags": [np.array(["x"]), None], "many": pd.array([1, None], dtype="Int64"),
    })  # fmt: skip
    columns = [record.columns for record in as_dataset(frame).records]
    assert columns == [{"year": "1999.0", "when": "2020-01-02T00:00:00", "tags": '["x"]', "many": "1"}, {}]
    with pytest.raises(DataError, match="row 2 of data 'data' has null as 'text', expected a string"):
        as_dataset(pd.DataFrame({"text": ["a", None]}))


def test_chats_of_a_frame_and_of_old_data_sets_are_chats():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    wanted = (Record(messages=(Message("user", "a"), Message("assistant", "b"))),)
    assert as_dataset(pd.DataFrame({"messages": [np.array(turns)]})).records == wanted
    assert as_dataset(datasets.Dataset.from_list([{"messages": turns}])).records == wanted


def test_other_objects_are_refused_by_their_type():
    for wrong in (3, {"text": "a"}, object()):
        with pytest.raises(
            ConfigError, match=r"data is an object of type '(int|dict|object)', expected a path, a hub id"
        ):
            as_dataset(wrong)
    with pytest.raises(ConfigError, match=r"data is a Series without columns, expected a path, a hub id"):
        as_dataset(pd.Series(["a", "b"]))
    with pytest.raises(ConfigError, match="record 2 of the data is of type 'str', expected a mapping"):
        as_dataset([{"text": "a"}, "b"])


def test_no_more_of_a_stream_is_read_than_the_split_takes():
    read: list[int] = []

    def endless() -> Iterator[dict[str, str]]:
        for number in itertools.count():
            read.append(number)
            yield {"text": f"word {number}"}

    stream = datasets.IterableDataset.from_generator(endless)
    assert len(as_dataset(stream, split="train[10:20]").records) == 10
    assert len(read) <= 21
