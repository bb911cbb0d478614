"""Files and folders: every kind gives the records of the same rows as JSON lines, or one line that says what to do."""

import csv
import gzip
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from plait.data import Message, Record, as_dataset
from plait.data.bounds import opened
from plait.data.rows import Room
from plait.errors import ConfigError, DataError, PlaitError

SECRET = "the treasure lies under the oak"
ROWS = [{"text": f'Zeile {n}, "so"\nund weiter: äöü', "author": "ada" if n % 3 else "bob"} for n in range(200)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def csv_text(rows: list[dict[str, str]], delimiter: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def stream(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=50)


def parquet(path: Path, rows: list[dict[str, str]] = ROWS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


FILES: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: write(path, LINES),
    "a.jsonl.gz": lambda path: write(path, gzip.compress(LINES)),
    "a.jsonl.zst": lambda path: write(path, zstd(LINES)),
    "frames.jsonl.zst": lambda path: write(path, zstd(LINES[:3000]) + zstd(LINES[3000:])),
    "packed without saying so.jsonl": lambda path: write(path, gzip.compress(LINES)),
    "array.json": lambda path: write(path, json.dumps(ROWS)),
    "pretty.json": lambda path: write(path, json.dumps(ROWS, indent=2, ensure_ascii=False)),
    "object.json": lambda path: write(path, json.dumps({"version": "1.0", "data": ROWS, "size": len(ROWS)}, indent=1)),
    "lines.json": lambda path: write(path, LINES),
    "a.csv": lambda path: write(path, csv_text(ROWS)),
    "from excel.csv": lambda path: write(path, "\ufeff" + csv_text(ROWS, ";")),
    "a.tsv": lambda path: write(path, csv_text(ROWS, "\t")),
    "from pandas.csv": lambda path: pd.DataFrame(ROWS).to_csv(path),
    "a.parquet": parquet,
    "groups.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=7),
    "a.feather": lambda path: pa.feather.write_feather(pa.Table.from_pylist(ROWS), str(path), chunksize=70),
    "a.arrow": stream,
    "saved": lambda path: datasets.Dataset.from_list(ROWS).save_to_disk(str(path), num_shards=3),
    "saved with splits": lambda path: datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(path),
    "shards": lambda path: (
        parquet(path / "data" / "train-00000-of-00002.parquet", ROWS[:90]),
        parquet(path / "data" / "train-00001-of-00002.parquet", ROWS[90:]),
        write(path / "README.md", "about"),
        write(path / "dataset_infos.json", "{}"),
        write(path / ".gitattributes", "x"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_records(tmp_path, name):
    FILES[name](tmp_path / name)
    expected = as_dataset(ROWS)
    dataset = as_dataset(tmp_path / name)
    records = dataset.records
    if name == "shards":
        assert {record.columns["file"] for record in records} == {
            "data/train-00000-of-00002", "data/train-00001-of-00002",
        }  # fmt: skip
        records = tuple(Record(text=r.text, columns={"author": r.columns["author"]}) for r in records)
    assert records == expected.records
    assert dataset.name == name.split(".")[0]
    assert as_dataset(str(tmp_path / name), split="train[10:13]").records == dataset.records[10:13]


def test_files_named_by_split_are_splits(tmp_path):
    write(tmp_path / "d" / "train.jsonl", LINES)
    write(tmp_path / "d" / "validation.jsonl", LINES[: LINES.index(b"\n")])
    write(tmp_path / "d" / "test.jsonl", LINES)
    dataset = as_dataset(tmp_path / "d")
    assert [len(dataset.records), len(dataset.held_out)] == [200, 1]
    assert dataset.notes == (f"'{tmp_path / 'd'}': split test is not used",)
    write(tmp_path / "d" / "extra.jsonl", LINES)
    with pytest.raises(DataError, match=r"holds 'test.jsonl' of split test and 'extra.jsonl' of none"):
        as_dataset(tmp_path / "d")


def test_saved_splits_are_splits_with_their_class_names(tmp_path):
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["bad", "good"]))
    part = datasets.Dataset.from_list([{"text": "a", "label": 1}, {"text": "b", "label": 0}], features=features)
    datasets.DatasetDict(train=part, test=part.select([0])).save_to_disk(tmp_path / "d")
    part.to_parquet(tmp_path / "d.parquet")
    dataset = as_dataset(tmp_path / "d")
    assert [record.label for record in dataset.records] == ["good", "bad"]
    assert [record.label for record in dataset.held_out] == ["good"]
    assert as_dataset(tmp_path / "d.parquet").records == dataset.records


def test_a_folder_of_text_is_a_record_for_each_file(tmp_path):
    root = tmp_path / "notes"
    write(root / "bob" / "later" / "b.txt", "bob later")
    write(root / "ada" / "a.md", "ada")
    write(root / "bob" / "a.txt.gz", gzip.compress(b"bob"))
    write(root / "bob" / "picture.png", b"\x89PNG\0\0")
    write(root / "bob" / "empty.txt", "")
    write(root / "bob" / ".hidden", "hidden")
    write(root / "README", "about")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "waits.txt")
    dataset = as_dataset(root)
    assert [record.text for record in dataset.records] == ["ada", "bob", "bob later"]
    assert dataset.column("folder") == ("ada", "bob", "bob")
    assert dataset.column("path") == ("ada/a.md", "bob/a.txt.gz", "bob/later/b.txt")
    assert dataset.natural_column == "folder"
    assert dataset.notes == (f"'{root}': 2 files without text left out",)
    assert as_dataset(root, columns="label=folder").labels == ("ada", "bob")


def test_folders_of_text_named_by_split_are_splits(tmp_path):
    for name in ("train/pos/1.txt", "train/neg/1.txt", "test/pos/1.txt"):
        write(tmp_path / "d" / name, name)
    dataset = as_dataset(tmp_path / "d", columns={"label": "folder"})
    assert [record.label for record in dataset.records] == ["neg", "pos"]
    assert [record.text for record in dataset.held_out] == ["test/pos/1.txt"]
    assert dataset.natural_column == "folder"


def test_one_file_of_text_is_one_record(tmp_path):
    dataset = as_dataset(write(tmp_path / "notes.txt", "\ufefffirst\nsecond\n"))
    assert dataset.records == (Record(text="first\nsecond\n"),)


def test_a_chat_on_one_line_is_a_record_and_no_list_of_turns(tmp_path):
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    for text in (json.dumps(chat), json.dumps([chat]), json.dumps([chat], indent=3)):
        dataset = as_dataset(write(tmp_path / "chat.json", text))
        assert dataset.records == (Record(messages=(Message("user", "a"), Message("assistant", "b"))),)


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _parquet_bytes() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"text": SECRET}] * 5000), out, use_dictionary=False, compression="none")
    return out.getvalue()


def _stream_bytes(table: pa.Table) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def _not_utf8() -> pa.Table:
    # Arrow itself does not look into a string that it is given as a buffer.
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    return pa.table({"text": text})


# A time that Arrow has and Python has not.
_LATE = pa.table({"text": [SECRET], "at": pa.array([1 << 62], pa.timestamp("us"))})
_TABLE = pa.Table.from_pylist([{"text": SECRET}] * 5000)
BAD: dict[str, tuple[bytes | str, str]] = {
    # CSV
    "latin1.csv": (f"text\n{SECRET}\ncaf\xe9\n".encode("latin-1"), r"line 3 of '.*' is not UTF-8: byte 4 is 0xe9; sav"),
    "values.csv": (f'text,author\n{SECRET},a\n"x",b,c\n', r"line 3 of '.*' has 3 values, expected 2 as in the first l"),
    "quote.csv": (f'text\n"{SECRET}\n' + "x\n" * 9, r"line 2 of '.*' is not CSV: unexpected end of data"),
    "title.csv": ("Notes of 2025;;\ntext;code;date\n", r"line 1 of '.*' has no name for column 2; .* if it is a title"),
    "twice.csv": ("text,text\na,b\n", r"line 1 of '.*' names column 'text' twice"),
    "header.csv": ("text,author\n", r"'.*' holds no record, expected a line of names and a line per record"),
    "long row.csv": ('text,a\nx,"' + ('y' * 999 + '\n","') * (17 << 10), r"line 2 of '.*' is not CSV: its row is long"),
    "names.csv": (f"question,answer\n{SECRET},b\n", r"expected .*, give --columns prompt=question,completion=answer$"),
    # JSON
    "cut.json": (_cut(json.dumps([{"text": SECRET}] * 9, indent=1).encode()), r"line \d+ of '.*' is not JSON: "),
    "number.json": (json.dumps([{"text": SECRET}, 3]), r"record 2 of '.*' is a number, expected an object; fix that r"),
    "lists.json": (json.dumps({"a": [{"text": SECRET}], "b": []}, indent=1), r"has the lists 'a' and 'b', expected on"),
    "no list.json": ('{\n"a": 1}', r"'.*' is an object without a list, expected a list of objects or an object with o"),
    "after.json": ('[{"text": "a"}] x', r"line 1 of '.*' is not JSON: Extra data"),
    "comma.json": ('[{"text": "a"}\n{"text": "b"}]', r"line 2 of '.*' is not JSON: Expecting ',' delimiter"),
    "deep.json": ('[{"text": ' + "[" * 100_000, r"'.*' is not readable JSON: a number is too long"),
    "latin1.json": (b'[{"text": "caf\xe9"}]', r"byte 15 of '.*' is 0xe9, expected UTF-8"),
    "empty.json": ("", r"'.*' holds no record, expected a list of objects"),
    "long text.json": (json.dumps([{"text": "a" * (17 << 20)}]), r"record 1 of '.*' has 17,825,792 characters as 't"),
    # JSON lines
    "huge.jsonl": ('{"text": "' + "a" * (17 << 20), r"line 1 of '.*' is too long, expected at most 16777216 bytes"),
    # Packed
    "cut.jsonl.gz": (_cut(gzip.compress(os.urandom(5000).hex().encode())), r"'.*' is damaged or cut off: .*; pack or "),
    "cut.jsonl.zst": (_cut(zstd(os.urandom(5000).hex().encode())), r"'.*' is damaged or cut off: .*; pack or copy"),
    "not packed.csv.gz": (f"text\n{SECRET}\n", ""),
    "zipped.csv": (b"PK\x03\x04....", r"'.*' is a ZIP archive or an office document; unpack it, or save it as CSV"),
    "a.xlsx": (b"PK\x03\x04....", r"expected JSONL, JSON, CSV, .*; save it as CSV"),
    "a.pkl": (b"\x80\x04.", r"save it as Parquet: unpickling runs code"),
    # Parquet and Arrow
    "text.parquet": (f'{{"text": "{SECRET}"}}\n', r"'.*' is not in Parquet format, despite its name; name J"),
    "cut.parquet": (_cut(_parquet_bytes()), r"'.*' is not a complete Parquet file \(ArrowInvalid\); copy i"),
    "really.jsonl": (_parquet_bytes(), r"'.*' is a Parquet file; name it .parquet, expected a JSONL file"),
    "cut.arrow": (_cut(_stream_bytes(_TABLE)), r"'.*' is not a complete Arrow file"),
    "not utf8.arrow": (_stream_bytes(_not_utf8()), r"'.*' is not a complete Arrow file \(ArrowInvalid\)"),
    "year.arrow": (_stream_bytes(_LATE), r"row 1 of '.*' or one after it has a date or"),
    # Text
    "latin1.txt": (b"caf\xe9", r"file '.*' is not UTF-8: byte 4 is 0xe9; save it as UTF-8"),
    "huge.txt": (b"a" * (17 << 20), r"file '.*' is too long, expected at most 16777216 bytes"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no other system keeps a limit on memory")
def test_a_document_takes_no_more_memory_or_bytes_than_it_may(monkeypatch, tmp_path):
    # Each of its lists takes twenty times what it is written with.
    path = write(tmp_path / "a.json", '{"text": "a", "more": [' + "[]," * (8 << 20) + "[]]}")
    monkeypatch.setattr("plait.data.bounds.MOST_BATCH_BYTES", 64 << 20)
    with pytest.raises(DataError, match=r"a.json' takes more than 67,108,864 bytes of memory to read; sav"):
        as_dataset(path)
    monkeypatch.setattr("plait.data.text_files.MOST_BYTES", 1 << 20)
    with pytest.raises(DataError, match=r"a.json' has more than 1,048,576 bytes; save it as"):
        as_dataset(path)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line_without_its_text(tmp_path, name):
    data, message = BAD[name]
    path = write(tmp_path / name, data)
    if not message:
        assert as_dataset(path).records
        return
    with pytest.raises((DataError, ConfigError), match=message) as caught:
        as_dataset(path)
    assert "\n" not in str(caught.value)
    assert "treasure" not in str(caught.value)


def saved(*files: str) -> str:
    return json.dumps({"_data_files": [{"filename": file} for file in files]})


# What a folder holds; a file without content is a pipe.
BAD_FOLDERS: dict[str, tuple[dict[str, bytes | str | None], str]] = {
    "empty": ({}, r"'.*' holds no file, expected files of data or of text"),
    "two kinds": (
        {"a.jsonl": LINES, "b.csv": csv_text(ROWS)},
        r"'.*' holds 1 of csv and 1 of jsonl, expected files of one kind; name one of them",
    ),
    "records of two kinds": (
        {"a.jsonl": LINES, "b.jsonl": '{"prompt": "a", "completion": "b"}'},
        r"line 1 of '.*b.jsonl' has 'prompt' and 'completion', expected 'text' as on lin",
    ),
    "a file outside": (
        {"state.json": saved("../secret.arrow")}, r"'.*state.json' names '../secret.arrow', expected a file beside it",
    ),
    "a pipe": (
        {"state.json": saved("data.arrow"), "data.arrow": None},
        r"'.*data.arrow' is not a file, expected one of a saved data set",
    ),
    "a long description": (
        {"state.json": "[" + " " * (17 << 20) + "]"}, r"'.*state.json' is not the description of a saved data set",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_a_bad_folder_is_refused_in_one_line(tmp_path, name):
    files, message = BAD_FOLDERS[name]
    (tmp_path / "d").mkdir()
    for file, content in files.items():
        if content is None:
            os.mkfifo(tmp_path / "d" / file)
        else:
            write(tmp_path / "d" / file, content)
    with pytest.raises(DataError, match=message) as caught:
        as_dataset(tmp_path / "d")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
@pytest.mark.parametrize("content", [b'{"text": "a"}\n', b"\n", b"a"], ids=["records", "blank lines", "one line"])
def test_a_small_file_that_unpacks_to_much_is_stopped(tmp_path, pack, content):
    data = pack(content * ((8 << 20) // len(content)))
    assert len(data) < 100_000
    path = write(tmp_path / "bomb.jsonl.gz", data)
    message = r"bomb.jsonl.gz' holds more than 1,048,576 bytes of data, expected at most half"
    sizes: list[int] = []
    with pytest.raises(DataError, match=message), opened(path, expected="JSONL", room=Room(1 << 20)) as file:
        sizes.extend(len(chunk) for chunk in iter(lambda: file.read(1 << 16), b""))
    assert 0 < sum(sizes) <= 1 << 20


def test_more_records_than_there_is_memory_for_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("plait.system.machine.memory_bytes", lambda: 40_000)
    path = write(tmp_path / "a.jsonl", LINES)
    with pytest.raises(DataError, match=r"'.*' holds more than 20,000 bytes .* such as --split train\[:100000\]"):
        as_dataset(path)
    assert len(as_dataset(path, split="train[:10]").records) == 10
    # Also if it is not their text that takes it.
    path = write(tmp_path / "b.jsonl", json.dumps({"text": "a"} | {str(name): "" for name in range(200)}))
    with pytest.raises(DataError, match=r"'.*' holds more than 20,000 bytes"):
        as_dataset(path)
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    much = [{"name": "c" * 20_000}]
    called = [*said, {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": much[0]}]}]
    for chat in ({"messages": said, "tools": much}, {"messages": called}):
        path = write(tmp_path / "c.jsonl", json.dumps(chat))
        with pytest.raises(DataError, match=r"'.*' holds more than 20,000 bytes"):
            as_dataset(path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_values_of_any_depth_are_read_or_refused_in_one_line(tmp_path, suffix):
    refused: list[str] = []
    for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit() + 1):
        deep = "[" * depth + "]" * depth
        turn = json.dumps({"from": "function_call", "value": {"name": "f", "arguments": deep}})
        for record in (f'{{"messages": [{turn}]}}', f'{{"text": "a", "more": {deep}}}'):
            path = write(tmp_path / f"a{suffix}", record if suffix == ".jsonl" else f"[{record}]")
            try:
                as_dataset(path)
            except DataError as error:
                refused.append(str(error))
    assert refused
    assert all("nest" in line and "too deep" in line and "\n" not in line for line in refused)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".json.gz", ""])
def test_any_bytes_under_any_name_give_a_dataset_or_an_error_of_one_line(tmp_path, suffix):
    pieces = [
        LINES[:300],
        b"",
        b"[",
        b'{"data": [',
        b"\xff\xfe",
        b"PAR1",
        b"ARROW1\0\0",
        b"\x1f\x8b\x08",
        b'text\n"a',
        b"\0",
    ]
    for first in pieces:
        for second in pieces:
            assert "\n" not in said(write(tmp_path / f"any{suffix}", first + second))


def said(path: Path) -> str:
    """The error for a file; empty if it is a dataset."""
    try:
        assert as_dataset(path).records
    except PlaitError as error:
        return str(error)
    return ""
