"""Parquet and Arrow files, and data in memory: Hugging Face's `datasets`, frames, Arrow tables, lists of mappings.

Files are read in small batches, each checked before a value of it is touched. The sizes that a file states bound
nothing, so the memory that the process may add is limited while a batch is read.
"""

import datetime as dt
import decimal
import itertools
import os
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from plait.data.bounds import Density, memory_limit, most_batch_bytes
from plait.data.columns import EXPECTED
from plait.data.rows import MAX_ROW_BYTES, DataSource, Row
from plait.data.splits import UNNAMED
from plait.errors import ConfigError, DataError
from plait.system.text import read_json

# Few, for every row may name one long text that the file holds once.
_BATCH = 16
# Of larger batches one row at a time becomes Python objects.
_LARGE_BYTES = 16 << 20
_MAGIC = {"Parquet": (b"PAR1",), "Arrow": (b"ARROW1", b"\xff\xff\xff\xff")}


def _slices(schema: Any, batches: Iterable[Any]) -> Iterator[list[dict[str, object]]]:
    """The records of Arrow batches, a few at a time; columns that hold bytes are left out, or not in the batches."""
    if not (names := _readable(schema)):
        return
    classes = class_names(schema.metadata or {})
    for batch in batches:
        step = _BATCH if batch.nbytes <= _LARGE_BYTES else 1
        for start in range(0, batch.num_rows, step):
            columns = [batch.column(name).slice(start, step).to_pylist() for name in names]
            yield [
                {
                    name: class_name(plain(value), classes.get(name, ()))
                    for name, value in zip(names, values, strict=True)
                }
                for values in zip(*columns, strict=True)
            ]


def class_names(metadata: Mapping[bytes, bytes]) -> dict[str, Sequence[str]]:
    """The class names of columns, from the metadata that Hugging Face's datasets write."""
    try:
        described = cast("dict[str, Any]", read_json(metadata[b"huggingface"][:MAX_ROW_BYTES]))["info"]["features"]
        columns = {name: feature for name, feature in described.items() if feature.get("_type") == "ClassLabel"}
        return {name: [str(label) for label in feature["names"]] for name, feature in columns.items()}
    except (LookupError, TypeError, ValueError, AttributeError):
        return {}


def class_name(value: object, names: Sequence[str]) -> object:
    """A class's name for its number; None for a number outside (-1: not labelled)."""
    if not names or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def table_rows(path: Path, what: Literal["Parquet", "Arrow"]) -> Iterator[Row]:
    """The rows of a Parquet file, or an Arrow file (also Feather) or stream, without columns of bytes (pictures)."""
    number, room = 0, most_batch_bytes()
    try:
        _check_file(path, what)
        with (_parquet if what == "Parquet" else _arrow)(path) as slices:
            while True:
                with memory_limit(room):
                    records = next(slices, None)
                if records is None:
                    return
                for fields in records:
                    number += 1
                    yield Row(f"row {number} of '{path}'", fields)
    except MemoryError as error:  # Arrow's own is one, too
        raise DataError(
            f"row {number + 1} of '{path}' or one after it takes more than {room:,} bytes of memory to read; "
            "write the file in smaller row groups or batches, or as JSON lines"
        ) from error
    except (pa.ArrowException, EOFError, UnicodeDecodeError, LookupError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise DataError(f"cannot read '{path}': {error.strerror}") from error
        after = f" after row {number}" if number else ""
        # Without the library's message, which may quote a value.
        raise DataError(
            f"'{path}' is not a complete {what} file{after} ({type(error).__name__}); copy it again"
        ) from error
    except (OverflowError, ValueError) as error:
        raise DataError(
            f"row {number + 1} of '{path}' or one after it has a date or a duration that is out of range, expected "
            "years 1 to 9999; leave its column out"
        ) from error


def _check_file(path: Path, what: str) -> None:
    """Refuse another kind of file, and one whose description of itself would fill the memory by its length."""
    with path.open("rb") as file:
        start = file.read(8)
        if not start.startswith(_MAGIC[what]):
            raise DataError(
                f"'{path}' is not in {what} format, despite its name; name JSON lines .jsonl, JSON .json and CSV .csv"
            )
        length, end = start[4:], b""
        if not start.startswith(b"\xff"):
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4 - len(_MAGIC[what][0])))
            length, end = file.read(4), file.read()
    # One that is cut off has no description.
    if start.startswith(end) and (size := int.from_bytes(length, "little")) > MAX_ROW_BYTES:
        raise DataError(
            f"'{path}' has {size:,} bytes of metadata such as column names, expected at most "
            f"{MAX_ROW_BYTES:,}; leave out columns that are not needed, or write larger row groups or batches"
        )


@contextmanager
def _parquet(path: Path) -> Generator[Iterator[list[dict[str, object]]]]:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = _names_in(schema, path)
        # Not by the sizes in the metadata: they may lie, and pyarrow 26 aborts the process where they are damaged.
        yield _slices(schema, map(_valid, file.iter_batches(batch_size=_BATCH, columns=names)))


@contextmanager
def _arrow(path: Path) -> Generator[Iterator[list[dict[str, object]]]]:
    with pa.OSFile(str(path)) as file:
        if file.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            file.seek(0)
            reader = batches = pa.ipc.open_stream(file)
        _names_in(reader.schema, path)
        yield _slices(reader.schema, map(_valid, _bounded(batches, path)))


def _valid(batch: Any) -> Any:
    batch.validate(full=True)
    return batch


def _bounded(batches: Iterable[Any], path: Path) -> Iterator[Any]:
    """The batches of an Arrow file, which can name one of them many times, within a bound for all together."""
    density = Density(path)
    for batch in batches:
        shared = (column.dictionary for column in batch.columns if hasattr(column, "dictionary"))
        density.unpack(batch.get_total_buffer_size() - sum(one.get_total_buffer_size() for one in shared))
        yield batch


def _names_in(schema: Any, path: Path) -> list[str]:
    """The columns of a file that hold no bytes, of which there must be some, with different names."""
    names = _readable(schema)
    if not names:
        # Rows of no columns take no bytes, so a file of a few hundred can claim any number of them.
        raise DataError(f"'{path}' has no column of text or numbers, expected {EXPECTED}")
    for name, count in Counter(schema.names).items():
        if count > 1:
            raise DataError(f"'{path}' has two columns {name[:32]!a}; rename one")
    return names


def _readable(schema: Any) -> list[str]:
    """The names of the columns that hold no bytes."""
    return [field.name for field in schema if not _holds_bytes(field.type)]


def _holds_bytes(type_: Any) -> bool:
    """Whether values of an Arrow type are bytes or have some in them."""
    types = pa.types
    if types.is_binary(type_) or types.is_large_binary(type_) or types.is_fixed_size_binary(type_):
        return True
    return any(_holds_bytes(type_.field(index).type) for index in range(type_.num_fields))


def plain(value: object) -> object:
    """The value as text, number, boolean, None, list or mapping; None for bytes and whatever has no plain form.

    A missing value of pandas or numpy (NaN, NaT, NA) is None.
    """
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value)
        case float():
            return None if value != value else float(value)
        case Mapping():
            items = cast("Mapping[object, object]", value).items()
            return {str(name): plain(item) for name, item in items}
        case list() | tuple():
            return [plain(item) for item in cast("list[object]", value)]
        case dt.date() | dt.time():
            text = value.isoformat()
            return None if text == "NaT" else text
        case dt.timedelta() | decimal.Decimal() | uuid.UUID():
            text = str(value)
            return None if text == "NaT" else text
        case _:
            return _array(value)


def _array(value: object) -> object:
    """An array or a scalar of numpy or a tensor; None for anything else."""
    to_list = getattr(value, "tolist", None)
    if not callable(to_list):
        return None
    found = to_list()
    return None if found is value else plain(found)


_ROWS = 64
_EXPECTED = (
    "a path, a hub id, a built-in's name, a Dataset, DatasetDict or IterableDataset of datasets, a pandas frame, an "
    "Arrow table, or a list of mappings"
)


def object_source(data: object, name: str) -> DataSource:
    """The source in an object; ConfigError if no data is known in objects of this type."""
    what = f"data '{name}'"
    if _is_a(data, "datasets", "DatasetDict", "IterableDatasetDict"):
        parts = cast("Mapping[str, object]", data)
        return DataSource(
            name, what, {str(split): _table(part, f"split '{split}' of {what}") for split, part in parts.items()}
        )
    return DataSource(name, what, {UNNAMED: _table(data, what)})


def _table(source: object, what: str) -> Callable[[], Iterator[Row]]:
    word = "row"
    if _is_a(source, "datasets", "Dataset", "IterableDataset"):
        read = _of_datasets
    elif _is_a(source, "pandas", "DataFrame"):
        read = _of_frame
    elif hasattr(source, "__arrow_c_stream__"):  # pyarrow, polars, DuckDB
        read = _of_arrow
    elif isinstance(source, Iterable) and not isinstance(source, (str, bytes, Mapping)):
        word, read = "record", _of_iterable
    else:
        raise ConfigError(f"data is an object of type '{type(source).__qualname__}', expected {_EXPECTED}")
    return lambda: (
        Row(f"{word} {number} of {what}", fields) for number, fields in enumerate(read(cast("Any", source)), start=1)
    )


def _is_a(source: object, module: str, *classes: str) -> bool:
    """Whether an object is an instance of a class of a library that may not be loaded."""
    loaded = sys.modules.get(module)
    return any(isinstance(source, getattr(loaded, name, ())) for name in classes) if loaded else False


def _of_iterable(source: Iterable[object]) -> Iterator[Mapping[str, object]]:
    for number, item in enumerate(source, start=1):
        if not isinstance(item, Mapping):
            raise ConfigError(f"record {number} of the data is of type '{type(item).__qualname__}', expected a mapping")
        yield cast("Mapping[str, object]", plain(item))


def _of_frame(frame: Any) -> Iterator[Mapping[str, object]]:
    names = [str(name) for name in frame.columns]
    for values in zip(*(frame[name] for name in frame.columns), strict=True):
        yield {name: plain(value) for name, value in zip(names, values, strict=True)}


def _of_arrow(source: Any) -> Iterator[Mapping[str, object]]:
    try:
        reader = pa.RecordBatchReader.from_stream(source)
    except pa.ArrowInvalid as error:
        # A single column, such as a Series, is a stream too.
        raise ConfigError(f"data is a {type(source).__qualname__} without columns, expected {_EXPECTED}") from error
    return itertools.chain.from_iterable(_slices(reader.schema, reader))


def _of_datasets(source: Any) -> Iterator[Mapping[str, object]]:
    features: Mapping[str, object] = source.features or {}
    if features:
        source = source.select_columns([name for name, feature in features.items() if _is_plain(feature)])
    form = getattr(source, "format", None)
    # Otherwise the user's own function makes the rows (`set_transform`).
    if not isinstance(form, Mapping) or form.get("type") != "custom":
        source = source.with_format(None)
    classes = {name: feature for name, feature in features.items() if type(feature).__name__ == "ClassLabel"}
    names: dict[str, Sequence[str]] = {name: getattr(feature, "names", None) or () for name, feature in classes.items()}
    if hasattr(source, "num_rows"):
        batches = source.iter(batch_size=_ROWS)
        rows = (dict(zip(each, values, strict=True)) for each in batches for values in zip(*each.values(), strict=True))
    else:
        rows = iter(source)
    for row in rows:
        yield {name: class_name(plain(value), names.get(name, ())) for name, value in row.items()}


def _is_plain(feature: Any) -> bool:
    """Whether values of a feature are text, numbers or lists and mappings of them: no picture, sound or bytes."""
    match feature:
        case dict():
            return all(map(_is_plain, cast("dict[str, object]", feature).values()))
        case list():
            return all(map(_is_plain, cast("list[object]", feature)))
        case _ if hasattr(feature, "feature"):
            return _is_plain(feature.feature)
        case _:
            kind = type(feature).__name__
            dtype = str(getattr(feature, "dtype", ""))
            return kind in ("Value", "ClassLabel", "Translation", "TranslationVariableLanguages") and (
                "binary" not in dtype
            )
