"""The data that a program or its operator gives, as a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from plait.plugins import admit

if TYPE_CHECKING:
    from plait.data import Dataset, Progress


def dataset_of(
    data: object,
    *,
    columns: str | Mapping[str, str] = "",
    split: str = "",
    name: str = "",
    progress: Progress = lambda _: None,
) -> Dataset:
    """The data (see `plait.data.as_dataset`); a function of the user's own that they name may be imported.

    Raises:
        ConfigError: there are no such data, or columns or split do not fit them.
        DataError: they cannot be read.
    """
    from plait.data import as_dataset

    if isinstance(data, str):
        admit(data)
    return as_dataset(data, columns=columns, split=split, name=name, progress=progress)
