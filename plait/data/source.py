"""Data as people have it, as one dataset: a built-in, or data of their own (`given`)."""

from collections.abc import Mapping

from plait.data.builtin import BUILTINS
from plait.data.records import Dataset, Progress


def as_dataset(
    source: object,
    *,
    columns: str | Mapping[str, str] | None = None,
    split: str = "",
    name: str = "",
    progress: Progress = lambda _: None,
) -> Dataset:
    """A dataset from whatever the data is.

    Args:
        source: a built-in's name, the path of a file or folder, a data set of the hub (``owner/name``, with a
            configuration and a revision if wanted: ``owner/name:config@revision``), a function of the user's own
            without arguments (``my_data:load``, if this process's operator named it), or an object: a `Dataset`,
            `DatasetDict` or `IterableDataset` of Hugging Face's datasets, a pandas frame, an Arrow table, an iterable
            of mappings, or a dataset of plait.
        columns: which columns hold what, such as ``text=body,client=author``, if they do not have the usual names.
        split: the split to train on, or ``TRAIN,HELD_OUT``; by default ``train``, and ``validation`` or else ``test``
            is held out. ``train[:1000]`` takes the first thousand rows.

    Raises:
        ConfigError: the source is of no known kind, or `columns` or `split` do not fit it.
        DataError: the data cannot be read, or a record (named) is not valid.
        MachineError, PeerError: a download failed.
    """
    if not columns and not split:
        if isinstance(source, Dataset):
            return source
        if isinstance(source, str) and source in BUILTINS:
            return BUILTINS[source](progress)
    return _given().given_dataset(source, columns=columns, split=split, name=name, progress=progress)


def check_data_name(data: str, *, columns: str = "", split: str = "") -> None:
    """Refuse what is neither a built-in, nor a file or folder, nor a name of the hub, without reading any data.

    Raises:
        ConfigError: it is nothing of that, and the nearest name is given; or `columns` or `split` is not valid.
        DataError: it is the path of nothing.
    """
    if columns or split or data not in BUILTINS:
        _given().check_given(data, columns=columns, split=split)


def _given():
    from plait.data import given  # a built-in dataset needs none of it

    return given
