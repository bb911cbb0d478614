"""Data that is in memory already: data sets of Hugging Face's `datasets`, frames, Arrow tables, lists of mappings.

None of these libraries is imported here: an object of theirs has brought its library along.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from plait.data.arrow_file import arrow_records, class_name, plain
from plait.data.rows import DataSource, Row
from plait.data.splits import UNNAMED
from plait.errors import ConfigError

_BATCH = 64
_EXPECTED = (
    "a path, a hub id, a built-in's name, a Dataset, DatasetDict or IterableDataset of datasets, a pandas frame, an "
    "Arrow table, or a list of mappings"
)


def object_source(data: object, name: str) -> DataSource:
    """The source in an object.

    Raises:
        ConfigError: no data is known in objects of this type.
    """
    what = f"data '{name}'"
    if _is_a(data, "datasets", "DatasetDict", "IterableDatasetDict"):
        parts = cast("Mapping[str, object]", data)
        return DataSource(
            name, what, {str(split): _table(part, f"split '{split}' of {what}") for split, part in parts.items()}
        )
    return DataSource(name, what, {UNNAMED: _table(data, what)})


def _table(source: object, what: str) -> Callable[[], Iterator[Row]]:
    if _is_a(source, "datasets", "Dataset", "IterableDataset"):
        return lambda: _numbered(_of_datasets(source), "row", what)
    if _is_a(source, "pandas", "DataFrame"):
        return lambda: _numbered(_of_frame(source), "row", what)
    if hasattr(source, "__arrow_c_stream__"):  # pyarrow, polars, DuckDB
        return lambda: _numbered(_of_arrow(source), "row", what)
    if isinstance(source, Iterable) and not isinstance(source, (str, bytes, Mapping)):
        return lambda: _numbered(_of_iterable(cast("Iterable[object]", source)), "record", what)
    raise ConfigError(f"data is an object of type '{type(source).__qualname__}', expected {_EXPECTED}")


def _is_a(source: object, module: str, *classes: str) -> bool:
    """Whether an object is an instance of a class of a library that may not be loaded."""
    loaded = sys.modules.get(module)
    return any(isinstance(source, getattr(loaded, name, ())) for name in classes) if loaded else False


def _numbered(records: Iterable[Mapping[str, object]], word: str, what: str) -> Iterator[Row]:
    for number, fields in enumerate(records, start=1):
        yield Row(f"{word} {number} of {what}", fields)


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
    import pyarrow as pa

    try:
        reader = pa.RecordBatchReader.from_stream(source)
    except pa.ArrowInvalid as error:
        # A single column, such as a Series, is a stream too.
        raise ConfigError(f"data is a {type(source).__qualname__} without columns, expected {_EXPECTED}") from error
    return arrow_records(reader.schema, reader)


def _of_datasets(source: Any) -> Iterator[Mapping[str, object]]:
    features: Mapping[str, object] = source.features or {}
    if features:
        source = source.select_columns([name for name, feature in features.items() if _is_plain(feature)])
    if not _is_custom(source):
        source = source.with_format(None)
    names = {name: _class_names(feature) for name, feature in features.items()}
    if hasattr(source, "num_rows"):
        batches = source.iter(batch_size=_BATCH)
        rows = itertools.chain.from_iterable(_transposed(batch) for batch in batches)
    else:
        rows = iter(source)
    for row in rows:
        yield {name: class_name(plain(value), names.get(name, ())) for name, value in row.items()}


def _transposed(batch: Mapping[str, list[object]]) -> Iterator[dict[str, object]]:
    for values in zip(*batch.values(), strict=True):
        yield dict(zip(batch, values, strict=True))


def _is_custom(source: Any) -> bool:
    """Whether the user's own function makes the rows (`set_transform`)."""
    form = getattr(source, "format", None)
    return isinstance(form, Mapping) and form.get("type") == "custom"


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


def _class_names(feature: Any) -> tuple[str, ...]:
    return tuple(feature.names or ()) if type(feature).__name__ == "ClassLabel" else ()
