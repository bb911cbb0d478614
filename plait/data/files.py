"""Files of data by their suffix, and folders: saved by `datasets`, of files of one kind of data, or of text."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from plait.data.bounds import Density, opened
from plait.data.rows import MAX_ROW_BYTES, DataSource, Row
from plait.data.splits import UNNAMED, split_in_name
from plait.data.text_files import csv_rows, json_rows, jsonl_rows
from plait.errors import ConfigError, DataError
from plait.system.files import failures_to
from plait.system.text import read_json

FOLDER = "folder"
"""The column of a text file's folder: the first one below the folder of data."""

_KINDS: Mapping[str, str] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".tab": "csv",
    ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow",
}  # fmt: skip
_TABS = (".tsv", ".tab")
_TEXT = frozenset({".txt", ".text", ".md", ".rst"})
_PACKED = (".gz", ".zst", ".zstd")
_OTHERS: Mapping[str, str] = {
    ".xlsx": "save it as CSV", ".xls": "save it as CSV", ".ods": "save it as CSV", ".zip": "unpack it",
    ".tar": "unpack it", ".tgz": "unpack it", ".7z": "unpack it", ".bz2": "unpack it", ".xz": "unpack it",
    ".pkl": "save it as Parquet: unpickling runs code", ".pickle": "save it as Parquet: unpickling runs code",
    ".pt": "save it as Parquet: unpickling runs code", ".docx": "save it as text", ".pdf": "save it as text",
    ".sqlite": "save a table as CSV", ".db": "save a table as CSV",
}  # fmt: skip
# Of a data set's own description; no data.
_DESCRIPTIONS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
_ASIDE = ("readme", "license", "licence", "changelog", "citation")


class _Format(NamedTuple):
    """A text format of records: what such a file is and holds, in words, and its reader."""

    title: str
    expected: str
    rows: Callable[[BinaryIO, Path], Iterator[Row]]


_TABLE = "a line of names and a line per record"
_FORMATS: Mapping[str, _Format] = {
    "jsonl": _Format("a JSONL file", "one JSON object per line", jsonl_rows),
    "json": _Format("a JSON file", "a list of objects", json_rows),
    "csv": _Format("a CSV file", _TABLE, csv_rows),
    "tsv": _Format("a TSV file", _TABLE, partial(csv_rows, delimiter="\t")),
}
_MOST_FILES = 1_000_000


def is_data_file(name: str) -> bool:
    """Whether a path's suffix is that of a file of data, so that it is no data set of the hub."""
    suffix = _suffix(Path(name))
    return suffix in _KINDS or suffix in _TEXT or suffix in _OTHERS or Path(name).suffix.lower() in _PACKED


def stem(path: Path) -> str:
    """A path's name without its suffixes for packing and kind."""
    return (Path(path.stem) if path.suffix.lower() in _PACKED else path).stem


def path_source(path: Path, name: str = "") -> DataSource:
    """The source in a file or folder; ConfigError for files of another kind, DataError for a folder that is no data."""
    if path.is_dir():
        return _folder(path, name or path.resolve().name)
    suffix = _suffix(path)
    if advice := _OTHERS.get(suffix):
        raise ConfigError(
            f"data is '{path}', expected JSONL, JSON, CSV, TSV, Parquet, Arrow or text, also packed with gzip or "
            f"Zstandard; {advice}"
        )
    if suffix in _TEXT:
        return DataSource(
            name or stem(path), f"'{path}'", {UNNAMED: lambda: _text_rows([path], path.parent, with_folders=False)}
        )
    kind = _KINDS.get(suffix, "jsonl")
    return DataSource(name or stem(path), f"'{path}'", {UNNAMED: partial(_rows, kind, path)}, _expected(kind))


def _expected(kind: str) -> str:
    return _FORMATS[kind].expected if kind in _FORMATS else "at least one"


def _suffix(path: Path) -> str:
    return (Path(path.stem) if path.suffix.lower() in _PACKED else path).suffix.lower()


def _rows(kind: str, path: Path) -> Iterator[Row]:
    """The rows of a file, no more of them than its size allows."""
    density: Density | None = None
    for row in _all_rows(kind, path):
        # Not before the reader has opened the file: it words what goes wrong with that.
        density = density or Density(path)
        density.row(len(row.fields))
        yield row


def _all_rows(kind: str, path: Path) -> Iterator[Row]:
    if kind not in _FORMATS:
        from plait.data.tables import table_rows  # pyarrow

        yield from table_rows(path, "Parquet" if kind == "parquet" else "Arrow")
        return
    form = _FORMATS["tsv" if _suffix(path) in _TABS else kind]
    with opened(path, expected=form.title) as file:
        yield from form.rows(file, path)


def _folder(path: Path, name: str) -> DataSource:
    what = f"'{path}'"
    if (path / "dataset_dict.json").is_file():
        splits = _names_in(path / "dataset_dict.json", "splits")
        return DataSource(name, what, {split: partial(_saved_rows, path / split) for split in splits})
    if (path / "state.json").is_file():
        return DataSource(name, what, {UNNAMED: partial(_saved_rows, path)})
    files = _files_in(path)
    by_kind: dict[str, list[Path]] = {}
    for file in files:
        by_kind.setdefault(_KINDS.get(_suffix(file), "text"), []).append(file)
    if not by_kind:
        raise DataError(f"{what} holds no file, expected files of data or of text")
    if len(by_kind) > 1:
        found = " and ".join(f"{len(of_kind)} of {kind}" for kind, of_kind in sorted(by_kind.items()))
        raise DataError(f"{what} holds {found}, expected files of one kind; name one of them, or move the others away")
    ((kind, files),) = by_kind.items()
    return _text_folder(path, name, files) if kind == "text" else _data_folder(path, name, kind, files)


def _data_folder(path: Path, name: str, kind: str, files: Sequence[Path]) -> DataSource:
    what = f"'{path}'"
    parts: dict[str, list[Path]] = {}
    for file in files:
        folders = map(split_in_name, file.relative_to(path).parts[:-1])
        parts.setdefault(split_in_name(file.name) or next(filter(None, folders), UNNAMED), []).append(file)
    if UNNAMED in parts and len(parts) > 1:
        split = next(split for split in parts if split)
        raise DataError(
            f"{what} holds '{parts[split][0].relative_to(path)}' of split {split} and "
            f"'{parts[UNNAMED][0].relative_to(path)}' of none, expected all file names or none to begin with a split"
        )
    splits = {split: partial(_shards, kind, shards, path) for split, shards in parts.items()}
    return DataSource(name, what, splits, _expected(kind))


def _shards(kind: str, files: Sequence[Path], root: Path) -> Iterator[Row]:
    for file in files:
        # Where every file is one client's, a run can be partitioned by it.
        shard = (file.relative_to(root).parent / stem(file)).as_posix()
        for place, fields in _rows(kind, file):
            yield Row(place, fields if len(files) == 1 or "file" in fields else {**fields, "file": shard})


def _text_folder(path: Path, name: str, files: Sequence[Path]) -> DataSource:
    what = f"'{path}'"
    kept = [file for file in files if file.suffix.lower() in _PACKED or _looks_like_text(file)]
    if not kept:
        raise DataError(f"{what} holds no file of text, expected some, or files of JSONL, JSON, CSV, Parquet or Arrow")
    left = len(files) - len(kept)
    notes = (f"{what}: {left} file{'' if left == 1 else 's'} without text left out",) if left else ()
    tops = {file.relative_to(path).parts[0]: file.parent != path for file in kept}
    splits = {top: split_in_name(top) for top in tops}
    if all(tops.values()) and all(splits.values()) and len(splits) > 1:
        parts = {
            top: partial(
                _text_rows,
                [file for file in kept if file.relative_to(path).parts[0] == top],
                path / top,
                with_folders=True,
            )
            for top in tops
        }
        has_folders = any(len(file.relative_to(path).parts) > 2 for file in kept)
    else:
        parts = {UNNAMED: partial(_text_rows, kept, path, with_folders=True)}
        has_folders = len(tops) > 1 and any(tops.values())
    return DataSource(name, what, parts, natural_column=FOLDER if has_folders else "", notes=notes)


def _text_rows(files: Sequence[Path], root: Path, *, with_folders: bool) -> Iterator[Row]:
    """A record for each file."""
    for path in files:
        place = f"file '{path}'"
        with opened(path, expected="a text file") as file:
            data = file.read(MAX_ROW_BYTES + 1)
        if len(data) > MAX_ROW_BYTES:
            raise DataError(f"{place} is too long, expected at most {MAX_ROW_BYTES} bytes; cut it into several files")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            wrong = f"byte {error.start + 1} is 0x{data[error.start]:02x}"
            raise DataError(f"{place} is not UTF-8: {wrong}; save it as UTF-8 or move it away") from error
        fields: dict[str, object] = {"text": text}
        if with_folders:
            parts = path.relative_to(root).parts
            fields |= {FOLDER: parts[0] if len(parts) > 1 else ".", "path": "/".join(parts)}
        yield Row(place, fields)


def _looks_like_text(path: Path) -> bool:
    """Whether a file has something in it, and no zero byte at its beginning, as git decides it."""
    with failures_to(f"read '{path}'", DataError), path.open("rb") as file:
        start = file.read(8192)
    return bool(start.strip()) and (b"\0" not in start or start.startswith((b"\xff\xfe", b"\xfe\xff")))


def _files_in(path: Path) -> list[Path]:
    """The files below a folder in the order of their names, without hidden ones and descriptions of the data."""
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read '{error.filename}': {error.strerror or error}")

    for folder, folders, names in os.walk(path, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for name in names:
            described = name.lower() in _DESCRIPTIONS or name.lower().startswith(_ASIDE)
            file = Path(folder, name)
            if not (name.startswith(".") or described) and file.is_file():
                found.append(file)
        if len(found) > _MOST_FILES:
            raise DataError(f"'{path}' holds more than {_MOST_FILES:,} files, expected a folder of data")
    return sorted(found, key=lambda file: file.relative_to(path).parts)


def _saved_rows(path: Path) -> Iterator[Row]:
    """The rows of a data set that `datasets` saved."""
    for name in _names_in(_no_pipe(path / "state.json"), "_data_files"):
        yield from _rows("arrow", _no_pipe(path / name))


def _no_pipe(path: Path) -> Path:
    """A path that a saved data set implies; reading one that is not a file could block forever."""
    if path.exists() and not path.is_file():
        raise DataError(f"'{path}' is not a file, expected one of a saved data set")
    return path


def _names_in(path: Path, key: str) -> list[str]:
    """The names of files or folders beside a description, listed in it."""
    try:
        with opened(path, expected="a data set's description") as file:
            described = read_json(file.read(MAX_ROW_BYTES))
        listed = cast("dict[str, object]", described)[key]
        names = [item["filename"] if isinstance(item, dict) else item for item in cast("list[object]", listed)]
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"'{path}' is not the description of a saved data set, expected one with {key!r}") from error
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            raise DataError(f"'{path}' names {name!a}, expected a file beside it")
    return cast("list[str]", names)
