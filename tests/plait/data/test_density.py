"""Small files that stand for any number of rows or of blanks: refused in one line, whichever reader reads them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plait.data import as_dataset
from plait.errors import DataError
from tests.plait.data.test_bombs import COMPRESSED, varint, written

ROWS = 919_123_001_346
FEW = 50_000
READ = """
import sys
from plait.data import as_dataset
from plait.errors import DataError
try:
    as_dataset(sys.argv[1])
except DataError as error:
    print(error)
"""


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def without_columns(path: Path, new: Callable[..., pa.ipc.RecordBatchStreamWriter]) -> None:
    """A batch of no columns, which takes no bytes however many rows it has."""
    empty = pa.Array.from_buffers(pa.struct([]), ROWS, [None])
    batch = pa.RecordBatch.from_struct_array(empty)
    assert (batch.num_rows, batch.num_columns) == (ROWS, 0)
    with pa.OSFile(str(path), "wb") as file, new(file, batch.schema) as writer:
        writer.write_batch(batch)


def only_bytes(path: Path) -> None:
    """A Parquet file whose only column is not read, and whose footer claims more rows than it has."""
    pq.write_table(pa.table({"picture": [b""] * 77_777}), path, write_statistics=False)
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    body, footer = data[: -8 - size], data[-8 - size : -8]
    footer = footer.replace(varint(77_777), varint(ROWS))
    path.write_bytes(body + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert pq.read_metadata(path).num_rows == ROWS


WITHOUT: dict[str, Callable[[Path], None]] = {
    "stream.arrow": lambda path: without_columns(path, pa.ipc.new_stream),
    "file.arrow": lambda path: without_columns(path, pa.ipc.new_file),
    "bytes.parquet": only_bytes,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT)
def test_rows_without_columns_are_refused_before_they_are_stepped_through(tmp_path: Path, name: str) -> None:
    WITHOUT[name](tmp_path / name)
    assert (tmp_path / name).stat().st_size < 1096
    # In a process of its own: such a file has held one for ever, and aborted another.
    command = [sys.executable, "-c", READ, str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180)
    assert done.stdout.startswith(f"'{tmp_path / name}' has no column of text or numbers, expected 'text', or ")
    assert done.stdout.count("\n") == 1


def one_text() -> pa.Table:
    return pa.table({"text": ["a"] * FEW})


REPEATED: dict[str, Callable[[Path], object]] = {
    "a.parquet": lambda path: pq.write_table(one_text(), path, compression="zstd"),
    "a.arrow": lambda path: written(path, pa.table({"text": one_text()["text"].dictionary_encode()}), COMPRESSED),
    "a.jsonl": lambda path: path.write_bytes(zstd(b'{"text": "a"}\n' * FEW)),
    "a.json": lambda path: path.write_bytes(zstd(json.dumps([{"text": "a"}] * FEW).encode())),
    "a.csv": lambda path: path.write_bytes(zstd(b"text\n" + b"a\n" * FEW)),
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_file_has_no_more_rows_and_columns_than_its_size_allows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr("plait.data.bounds._FREE_CELLS", 1 << 10)
    REPEATED[name](tmp_path / name)
    size = (tmp_path / name).stat().st_size
    with pytest.raises(
        DataError, match=rf"{name}' has {size:,} bytes and at least [0-9,]+ rows, too many for its size"
    ):
        as_dataset(tmp_path / name)


BLANKS = {"a.jsonl": b"\n", "a.json": b" ", "a.csv": b"\n", "a.txt": b"a"}


@pytest.mark.slow
@pytest.mark.parametrize("name", BLANKS)
def test_a_packed_file_unpacks_to_no_more_than_its_size_allows(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(zstd(BLANKS[name] * (8 << 20)))
    size = (tmp_path / name).stat().st_size
    assert size < 2000
    with pytest.raises(DataError, match=rf"{name}' has {size:,} bytes and unpacks to more than"):
        as_dataset(tmp_path / name)


def test_a_batch_that_an_arrow_file_names_many_times_is_unpacked_few_times(tmp_path: Path) -> None:
    table = pa.table({"text": ["a"], "more": pa.array([[0.0] * (1 << 18)])})
    path = tmp_path / "a.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema, options=COMPRESSED) as writer:
        for _ in range(4):
            writer.write_table(table)
    assert path.stat().st_size < 5000
    with pytest.raises(
        DataError, match=r"a.arrow' has [0-9,]+ bytes and unpacks to more than [0-9,]+, expected at most"
    ):
        as_dataset(path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.arrow"])
def test_a_file_of_rows_that_differ_is_read_whole(tmp_path: Path, name: str) -> None:
    table = pa.table({"text": [f"text {number}" for number in range(3000)], "n": list(range(3000))})
    path = tmp_path / name
    match path.suffix:
        case ".csv":
            path.write_text("text,n\n" + "".join(f"text {number},{number}\n" for number in range(3000)))
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
        case ".parquet":
            pq.write_table(table, path, compression="zstd")
        case _:
            written(path, table, COMPRESSED)
    assert len(as_dataset(path).records) == 3000
