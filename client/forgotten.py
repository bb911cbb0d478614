"""The groups that a client leaves out of its data for good: ``STATE/NAME.forgotten``, keyed hashes and no names."""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

from client.task import shown
from plait.data import Dataset, Record
from plait.errors import ConfigError, DataError
from plait.system.files import ensure_private_directory, read_if_there, write_atomically
from plait.system.text import read_json
from plait.trust.keys import KEY_BYTES


@dataclass(frozen=True)
class ForgottenGroup:
    """A group that is left out: its column, the keyed hash of its name, and how many lines had left the node before."""

    column: str
    hash: str
    lines: int


@dataclass(frozen=True)
class Forgotten:
    """The groups of one node; the key is drawn with the first."""

    path: Path
    key: str = ""
    groups: tuple[ForgottenGroup, ...] = ()

    @classmethod
    def of(cls, state: Path, name: str) -> Self:
        """Those of the node called `name`; ConfigError for a damaged file."""
        path = state / f"{name}.forgotten"
        if (data := read_if_there(path)) is None:
            return cls(path)
        try:
            kept = cast("dict[str, Any]", read_json(data))
            bytes.fromhex(kept["key"])
            return cls(path, kept["key"], tuple(ForgottenGroup(**each) for each in kept["groups"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"'{path}', which lists the groups to leave out of this client's data, is damaged: restore it"
            ) from error

    def with_group(self, dataset: Dataset, column: str, name: str, *, lines: int) -> Self:
        """This and one more, on disk before it returns; refused where the data have no such group, or no other."""
        if all(_group(record, column) != name for record in (*dataset.records, *dataset.held_out)):
            raise DataError(f"forget is '{shown(name)}', but no record has that value in column '{shown(column)}'")
        more = replace(self, key=self.key or secrets.token_hex(KEY_BYTES))
        found = ForgottenGroup(column, more.hash_of(column, name), lines)
        if all(each.hash != found.hash for each in self.groups):
            more = replace(more, groups=(*self.groups, found))
        if not more.without(dataset).records:
            raise DataError(f"forget is '{shown(name)}', which leaves no record: end this client instead")
        ensure_private_directory(self.path.parent)
        write_atomically(
            self.path, json.dumps({"key": more.key, "groups": [vars(each) for each in more.groups]}).encode()
        )
        return more

    def hash_of(self, column: str, name: str) -> str:
        """What stands for a group in the list."""
        text = f"{len(column)} {column}{name}".encode(errors="surrogatepass")
        return hashlib.blake2b(text, key=bytes.fromhex(self.key), digest_size=16).hexdigest()

    def without(self, dataset: Dataset) -> Dataset:
        """The data that are left; ConfigError where they do not have the column of a group."""
        for column in sorted({each.column for each in self.groups}):
            if all(column not in record.columns for record in dataset.records):
                raise ConfigError(
                    f"data '{dataset.name}' has no column '{shown(column)}', by which '{self.path}' leaves out groups; "
                    "give data with it, or, if it is data of nobody in that list, another --state"
                )
        return replace(dataset, records=self._left(dataset.records), held_out=self._left(dataset.held_out))

    def _left(self, records: Sequence[Record]) -> tuple[Record, ...]:
        hashes, columns = {each.hash for each in self.groups}, {each.column for each in self.groups}
        return tuple(
            record
            for record in records
            if not any(self.hash_of(column, _group(record, column)) in hashes for column in columns)
        )


def _group(record: Record, column: str) -> str:
    return record.columns.get(column, "").strip()
