"""Small files that unpack to much, or stand for any number of rows or blanks: refused in one line, before it costs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plait.data import as_dataset
from plait.errors import DataError

MOST_BYTES = 32 << 20
LARGE_BYTES = 4 * MOST_BYTES
TEXT = "x" * (4 << 20)
ROWS = 919_123_001_346
FEW = 50_000
PAGES = {
    "compression": "zstd",
    "write_statistics": False,
    "data_page_size": 1 << 30,
    "dictionary_pagesize_limit": 1 << 30,
}
COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd")

# A bomb for each way in which few bytes become many.
BOMBS: dict[str, Callable[[Path], object]] = {
    "one page.parquet": lambda path: pq.write_table(
        pa.table({"text": ["x" * LARGE_BYTES]}), path, use_dictionary=False, **PAGES
    ),
    "one text in every row.parquet": lambda path: lying(path, pa.table({"text": [TEXT] * 32})),
    "a long list.parquet": lambda path: pq.write_table(with_list(), path, **PAGES),
    "a list of one text.parquet": lambda path: lying(
        path, pa.table({"text": ["a"], "more": pa.array([[TEXT] * 32])})
    ),
    "compressed buffers.arrow": lambda path: written(path, pa.table({"text": ["x" * LARGE_BYTES]}), COMPRESSED),
    "a text that rows share.arrow": lambda path: written(
        path, pa.table({"text": pa.DictionaryArray.from_arrays(np.zeros(64, np.int32), pa.array([TEXT]))}), COMPRESSED
    ),
    "a length that cannot be.arrow": lambda path: bragging(path),
    "many columns.parquet": lambda path: pq.write_table(
        pa.table({f"{number:0900}": pa.array([], pa.string()) for number in range(7_000)}), path
    ),
    "many columns.arrow": lambda path: written(
        path, pa.table({f"{number:0900}": pa.array([], pa.string()) for number in range(20_000)})
    ),
    # Such files have held one process for ever, and aborted another.
    "rows of nothing, a stream.arrow": lambda path: without_columns(path, pa.ipc.new_stream),
    "rows of nothing, a file.arrow": lambda path: without_columns(path, pa.ipc.new_file),
    "rows of nothing.parquet": lambda path: only_bytes(path),
}  # fmt: skip

READ = """
import json, sys
from pathlib import Path
from plait.system import machine
from plait.data import as_dataset, bounds
from plait.errors import DataError
bounds.MOST_BATCH_BYTES = int(sys.argv[1])
for path in sys.argv[2:4]:  # so that what reading loads is there
    as_dataset(path)
for path in sys.argv[4:]:
    before = machine.peak_rss_bytes()
    try:
        as_dataset(path)
        said = ""
    except DataError as error:
        said = str(error)
    print(json.dumps([said, machine.peak_rss_bytes() - before]))
"""


def with_list() -> pa.Table:
    numbers = np.zeros(LARGE_BYTES // 8, np.int64)
    return pa.table({"text": ["a"], "more": pa.ListArray.from_arrays(pa.array([0, numbers.size], pa.int32()), numbers)})


def written(path: Path, table: pa.Table, options: pa.ipc.IpcWriteOptions | None = None) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema, options=options) as writer:
        writer.write_table(table)


def bragging(path: Path) -> None:
    """A compressed buffer that says that it is large and is not."""
    written(path, pa.table({"text": ["x" * 100_000]}), COMPRESSED)
    data = path.read_bytes()
    frame = data.rindex(b"\x28\xb5\x2f\xfd")
    assert int.from_bytes(data[frame - 8 : frame], "little") == 100_000
    path.write_bytes(data[: frame - 8] + (1 << 36).to_bytes(8, "little") + data[frame:])


def lying(path: Path, table: pa.Table) -> None:
    """A Parquet file whose footer says that its longest column has seven bytes when it is unpacked."""
    pq.write_table(table, path, **PAGES)
    group = pq.read_metadata(path).row_group(0)
    longest = max(group.column(number).total_uncompressed_size for number in range(group.num_columns))
    data, footer = path.read_bytes(), int.from_bytes(path.read_bytes()[-8:-4], "little") + 8
    told = varint(longest)
    assert told in data[-footer:]
    # As long as the true one, so that every offset stays: a varint may begin with groups of seven zero bits.
    small = bytes([0x80 | 14, *[0x80] * (len(told) - 2), 0])
    path.write_bytes(data[:-footer] + data[-footer:].replace(told, small))
    group = pq.read_metadata(path).row_group(0)
    assert max(group.column(number).total_uncompressed_size for number in range(group.num_columns)) < 1000


def damaged(path: Path) -> None:
    """A Parquet file with one wrong bit, over which pyarrow 26 aborts the process that asks for a column's size."""
    pq.write_table(pa.table({"text": ["a", "b"], "more": [["a"], ["b"]]}), path, store_schema=False)
    data = path.read_bytes()
    assert data.count(b"\x15\x0c%\x02\x18\x04text") == 1
    path.write_bytes(data.replace(b"\x15\x0c%\x02\x18\x04text", b"\x15\x0c%\x06\x18\x04text"))


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


def varint(number: int) -> bytes:
    """A number as Thrift's compact protocol writes it."""
    zigzag, out = number << 1, bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*out, zigzag])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no other system keeps a limit on memory")
def test_a_small_table_that_unpacks_to_much_is_refused_before_it_does(tmp_path):
    paths = [tmp_path / name for name in BOMBS]
    for path in paths:
        BOMBS[path.name](path)
        assert "columns" in path.name or path.stat().st_size < 10_000
    good = [tmp_path / "good.parquet", tmp_path / "good.arrow"]
    pq.write_table(pa.table({"text": ["a"] * 999}), good[0], **PAGES)
    written(good[1], pa.table({"text": ["a"] * 999}), COMPRESSED)
    damaged(tmp_path / "damaged.parquet")
    paths.append(tmp_path / "damaged.parquet")
    command = [sys.executable, "-c", READ, str(MOST_BYTES), *map(str, (*good, *paths))]
    # Arrow's own allocator reserves a gigabyte at once, which would be room besides.
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=180)
    for path, line in zip(paths, done.stdout.splitlines(), strict=True):
        said, taken_bytes = json.loads(line)
        assert said, f"{path.name} was read"
        assert "\n" not in said
        assert str(path) in said
        if path.name == "damaged.parquet":
            assert "is not a complete Parquet file" in said
        elif "rows of nothing" in path.name:
            assert said.startswith(f"'{path}' has no column of text or numbers, expected 'text', or ")
        elif "columns" in path.name:
            assert "bytes of metadata such as column names, expected at most 16,777,216" in said
        else:
            assert f"takes more than {MOST_BYTES:,} bytes of memory to read; write the file in" in said
        # What Python's own memory and the libraries' take besides.
        assert taken_bytes < MOST_BYTES + (16 << 20), path.name


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


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
def test_a_file_has_no_more_rows_and_columns_than_its_size_allows(monkeypatch, tmp_path, name):
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
def test_a_packed_file_unpacks_to_no_more_than_its_size_allows(tmp_path, name):
    (tmp_path / name).write_bytes(zstd(BLANKS[name] * (8 << 20)))
    size = (tmp_path / name).stat().st_size
    assert size < 2000
    with pytest.raises(DataError, match=rf"{name}' has {size:,} bytes and unpacks to more than"):
        as_dataset(tmp_path / name)


def test_a_batch_that_an_arrow_file_names_many_times_is_unpacked_few_times(tmp_path):
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
