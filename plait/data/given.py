"""Data of a user's own as one dataset: a file or folder, a data set of the hub, a function, an object in memory."""

import errno
import itertools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import cast

from plait.data.builtin import BUILTINS
from plait.data.columns import ColumnMap, RecordShape, column_map
from plait.data.files import is_data_file, path_source
from plait.data.records import MEMORY, Dataset, Progress, Record
from plait.data.rows import DataSource, RowReader
from plait.data.splits import SplitPart, choose, parse_split
from plait.errors import ConfigError, DataError, did_you_mean
from plait.own_code import BrokenError, Check, chosen_function, located_errors
from plait.plugins import Kind, find, is_named
from plait.settings.choice import parse_choice, with_options
from plait.system.files import at_home

_PREFIX = re.compile(r"(hf://|https://huggingface\.co/)datasets/")
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ID = re.compile(
    rf"(?P<id>{_PART}/{_PART})(:(?P<config>[A-Za-z0-9._ -]{{1,96}}))?(@(?P<revision>[A-Za-z0-9._/-]{{1,200}}))?"
)


@dataclass(frozen=True)
class HubName:
    """A data set of the hub, ``owner/name``; `is_certain` if it was written as an address, so that it cannot be a path.

    Without a configuration the only one or the default is meant, without a revision (branch, tag, commit) the newest.
    """

    id: str
    config: str = ""
    revision: str = ""
    is_certain: bool = False

    def __str__(self) -> str:
        config = f":{self.config}" if self.config else ""
        return f"{self.id}{config}" + (f"@{self.revision}" if self.revision else "")


def hub_name(text: str) -> HubName | None:
    """Read a name of the hub; None if it cannot be one."""
    rest = _PREFIX.sub("", text, count=1)
    match = _ID.fullmatch(rest)
    if not match:
        return None
    return HubName(match["id"], match["config"] or "", match["revision"] or "", is_certain=rest != text)


def given_dataset(
    source: object,
    *,
    columns: str | Mapping[str, str] | None,
    split: str,
    name: str,
    progress: Progress,
) -> Dataset:
    """A dataset from whatever the data is; see `plait.data.as_dataset`."""
    named, _ = column_map(columns), parse_split(split)
    if isinstance(source, Dataset):
        return _as_it_is(source, named, split)
    if not isinstance(source, (str, PathLike)):
        from plait.data.tables import object_source  # pyarrow

        return _dataset(object_source(source, name or "data"), named, split)
    text = fspath(cast("str | PathLike[str]", source))
    if isinstance(source, str) and (load := BUILTINS.get(text)):
        return _as_it_is(load(progress), named, split)
    check_given(text)
    if isinstance(source, str) and (plugin := _plugin(text)):
        made = _made(*plugin)
        name = name or plugin[0].rpartition(":")[2]
        return given_dataset(made, columns=columns, split=split, name=name, progress=progress)
    on_hub = _on_hub(text) if isinstance(source, str) else None
    if not on_hub:
        return _dataset(path_source(at_home(text), name), named, split)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from plait.data.hub import hub_source  # datasets, which take seconds

    return _dataset(hub_source(on_hub, progress=progress), named, split)


def check_given(data: str, *, columns: str = "", split: str = "") -> None:
    """Refuse what is not data, without reading any; see `plait.data.check_data_name`."""
    _ = column_map(columns), parse_split(split)
    if data.startswith(MEMORY):
        raise ConfigError(
            f"data is '{data}', an object in a Python program; pass it again there, to plait.resume, or start a new "
            f"run with a file"
        )
    path = at_home(data)
    if data in BUILTINS or path.exists() or _on_hub(data) or _plugin(data):
        return
    if path.suffix or len(path.parts) > 1:
        raise DataError(f"cannot read '{data}': {os.strerror(errno.ENOENT)}{_hint(path)}")
    hint = did_you_mean(data, BUILTINS)
    raise ConfigError(
        f"data is '{data}', expected a file or folder, a data set of the hub (owner/name) or one of "
        f"{', '.join(sorted(BUILTINS))}{hint}"
    )


def _plugin(data: str) -> tuple[str, Mapping[str, str]] | None:
    """The name and options of a user's own function; None if `data` is something else."""
    try:
        name, options = parse_choice(data)
    except ConfigError:
        return None
    return (name, options) if is_named(Kind.DATASET, name) and not Path(data).exists() else None


def _made(name: str, options: Mapping[str, str]) -> object:
    """What a user's own function makes; refused if that is another name instead of data."""
    function = find(Kind.DATASET, name, known=BUILTINS)
    if not callable(function):
        raise ConfigError(f"data is '{name}', an object of type '{type(function).__name__}', expected a function")
    if options:
        function = with_options(chosen_function(function, (), what=f"data '{name}'"), options, what=f"data '{name}'")
    # Without the error's message, which may quote the data.
    with located_errors(f"data '{name}' failed", quoting=False):
        made = cast("Callable[[], object]", function)()
    if isinstance(made, (str, Path)):
        raise ConfigError(f"data '{name}' returned a name, expected the data: a list, a frame, a data set of datasets")
    return made


def _hint(path: Path) -> str:
    if len(path.parts) == 2 and (on_hub := hub_name(f"{path.parent.name}/{path.name}")):
        return f"; a data set of the hub is hf://datasets/{on_hub}"
    return did_you_mean(path.name, (each.name for each in path.parent.glob("*")))


def _on_hub(data: str) -> HubName | None:
    name = hub_name(data)
    if name is None or name.is_certain:
        return name
    path = Path(data)
    return None if path.exists() or path.parent.is_dir() or is_data_file(data) else name


def _as_it_is(dataset: Dataset, columns: ColumnMap, split: str) -> Dataset:
    """A dataset whose records exist already: only another client column can be chosen."""
    if columns.shape or split:
        option = "columns" if columns.shape else "split"
        raise ConfigError(f"data '{dataset.name}' takes no {option} but columns client=COLUMN")
    return replace(dataset, natural_column=columns.client) if columns.client else dataset


def _dataset(source: DataSource, columns: ColumnMap, split: str) -> Dataset:
    choice, reader = choose(tuple(source.splits), split, what=source.what), RowReader(columns)

    def read(part: SplitPart, what: str) -> tuple[Record, ...]:
        found = reader.read(itertools.islice(source.splits[part.name](), part.start, part.stop))
        if not found:
            raise DataError(f"{what} holds no record, expected {source.expected}")
        return found

    train, held_out = read(choice.train, source.what), choice.held_out
    return Dataset.of(
        source.name,
        cast("RecordShape", reader.shape).kind,
        train,
        natural_column=columns.client or source.natural_column,
        held_out=read(held_out, f"split '{held_out.name}' of {source.what}") if held_out else (),
        notes=(*source.notes, *choice.notes),
    )


def _reads(load: Callable[[], Dataset]) -> str:
    dataset = load()
    columns = f", columns {', '.join(dataset.column_names)}" if dataset.column_names else ""
    return f"{len(dataset.records)} records of kind {dataset.kind}, {len(dataset.held_out)} held out{columns}"


def _same(load: Callable[[], Dataset]) -> None:
    first, second = load().fingerprint, load().fingerprint
    if first != second:
        raise BrokenError(
            f"fingerprint {second[:16]} the second time, {first[:16]} the first; such a run cannot resume"
        )


DATASET_CHECKS: tuple[Check[Callable[[], Dataset]], ...] = (
    Check("gives records that plait reads", _reads),
    Check("gives the same records again", _same),
)
"""The contract of a function that makes data."""
