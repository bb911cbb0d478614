"""Data as people have it, as one dataset: a built-in, a file, or an object in memory.

Decides what a source is; how each is read is told elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from plait.data.builtin import BUILTINS
from plait.data.cache import cache_directory
from plait.data.columns import ColumnMap, column_map
from plait.data.jsonl import jsonl_rows
from plait.data.packages import Progress
from plait.data.records import Dataset
from plait.data.rows import Room, Row, Source, read_rows
from plait.data.splits import UNNAMED, Part, choose, parse_split
from plait.data.tables import object_source
from plait.errors import ConfigError, DataError, did_you_mean

MEMORY = "memory:"
"""What a run's settings call data that was given as an object, before its name."""


def as_dataset(
    source: object,
    *,
    columns: str | Mapping[str, str] | None = None,
    split: str = "",
    name: str = "",
    cache: Path | None = None,
    progress: Progress = lambda _: None,
) -> Dataset:
    """A dataset from whatever the data is.

    Args:
        source: a built-in's name, a path, or an object: a `Dataset`, `DatasetDict` or `IterableDataset` of Hugging
            Face's datasets, a pandas frame, an Arrow table, an iterable of mappings, or a dataset of plait.
        columns: which columns hold what, such as ``text=body,client=author``, if they do not have the usual names.
        split: the split to train on, or ``TRAIN,HELD_OUT``; by default ``train``, and ``validation`` or else ``test``
            is held out. ``train[:1000]`` takes the first thousand rows.
        name: of a dataset that has none of its own.
        cache: where downloads are kept; by default plait's cache directory.
        progress: is told what is downloaded.

    Raises:
        ConfigError: the source is of no known kind, or `columns` or `split` do not fit it.
        DataError: the data cannot be read, or a record (named) is not valid.
        MachineError, PeerError: a download failed.
    """
    named, _ = column_map(columns), parse_split(split)
    if isinstance(source, Dataset):
        return _as_it_is(source, named, split)
    if not isinstance(source, (str, Path)):
        return _dataset(object_source(source, name or "data"), named, split)
    text = str(source)
    if isinstance(source, str) and (load := BUILTINS.get(text)):
        return _as_it_is(load(cache or cache_directory(), progress), named, split)
    check_data_name(text)
    path = Path(source).expanduser()
    lines = Source(name or path.stem, f"'{path}'", {UNNAMED: lambda: _lines(path)}, "one JSON object per line")
    return _dataset(lines, named, split)


def check_data_name(data: str) -> None:
    """Refuse what is neither a built-in nor a file, without reading any data.

    Raises:
        ConfigError: it is neither; the nearest name is given.
    """
    path = Path(data).expanduser()
    if data in BUILTINS or path.exists() or path.suffix or len(path.parts) > 1:
        return
    hint = did_you_mean(data, BUILTINS)
    raise ConfigError(f"data is '{data}', expected a JSONL file or one of {', '.join(sorted(BUILTINS))}{hint}")


def _as_it_is(dataset: Dataset, columns: ColumnMap, split: str) -> Dataset:
    """A dataset whose records are made already: another client column is all that can be asked of it."""
    if columns.shape or split:
        option = "columns" if columns.shape else "split"
        raise ConfigError(
            f"{option} is given, but data '{dataset.name}' needs none, expected only columns client=COLUMN"
        )
    return replace(dataset, natural_column=columns.client) if columns.client else dataset


def _lines(path: Path) -> Iterator[Row]:
    try:
        with path.open("rb") as file:
            yield from jsonl_rows(file, path)
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror or error}, expected a JSONL file") from error


def _dataset(source: Source, columns: ColumnMap, split: str) -> Dataset:
    choice = choose(tuple(source.splits), split, what=source.what)
    room = Room()
    train = read_rows(_part(source, choice.train), columns, room=room)
    if train is None:
        raise DataError(f"{source.what} holds no record, expected {source.expected}")
    held_out = None
    if choice.held_out:
        held_out = read_rows(_part(source, choice.held_out), columns, room=room, like=train)
        if held_out is None:
            raise DataError(
                f"split '{choice.held_out.name}' of {source.what} holds no record, expected {source.expected}"
            )
    return Dataset.of(
        source.name,
        train.kind,
        train.records,
        natural_column=columns.client or source.natural_column,
        held_out=held_out.records if held_out else (),
        notes=(*source.notes, *choice.notes),
    )


def _part(source: Source, part: Part) -> Iterator[Row]:
    return itertools.islice(source.splits[part.name](), part.start, part.stop)
