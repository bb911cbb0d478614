"""One JSON object of a ledger, read with checks: whoever asks for a number gets a number, or an error that says where.

Knows no event: which keys there are is the business of `run_view`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Never

from plait.adapters import Json
from plait.errors import PeerError


@dataclass(frozen=True)
class Record:
    """The fields of one event (or of an object inside it).

    Attributes:
        fields: the JSON object.
        where: what to call it in an error: ``event 12 (evaluated)``.
    """

    fields: Mapping[str, Json]
    where: str

    def optional_text(self, key: str) -> str | None:
        """The string under `key`; None where it is missing or null."""
        value = self.fields.get(key)
        return value if value is None or isinstance(value, str) else self._refuse(key, value, "a string")

    def text(self, key: str) -> str:
        """The string under `key`."""
        value = self.optional_text(key)
        return self._refuse(key, None, "a string") if value is None else value

    def optional_number(self, key: str) -> float | None:
        """The finite number under `key`; None where it is missing or null."""
        value = self.fields.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return self._refuse(key, value, "a finite number")
        return float(value)

    def number(self, key: str) -> float:
        """The finite number under `key`."""
        value = self.optional_number(key)
        return self._refuse(key, None, "a finite number") if value is None else value

    def optional_count(self, key: str) -> int | None:
        """The whole number from 0 up under `key`; None where it is missing or null."""
        value = self.fields.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            return self._refuse(key, value, "a whole number from 0 up")
        return value

    def count(self, key: str) -> int:
        """The whole number from 0 up under `key`."""
        value = self.optional_count(key)
        return self._refuse(key, None, "a whole number from 0 up") if value is None else value

    def record(self, key: str) -> Record:
        """The object under `key`; empty where it is missing or null."""
        value = self.fields.get(key)
        if value is None:
            return Record({}, f"{self.where}, '{key}'")
        return (
            Record(value, f"{self.where}, '{key}'")
            if isinstance(value, dict)
            else self._refuse(key, value, "an object")
        )

    def items(self, key: str) -> Sequence[Json]:
        """The list under `key`; empty where it is missing or null."""
        value = self.fields.get(key)
        if value is None:
            return ()
        return value if isinstance(value, list) else self._refuse(key, value, "a list")

    def records(self, key: str) -> Sequence[Record]:
        """The list of objects under `key`; empty where it is missing or null."""
        found: list[Record] = []
        for index, value in enumerate(self.items(key)):
            if not isinstance(value, dict):
                return self._refuse(f"{key}[{index}]", value, "an object")
            found.append(Record(value, f"{self.where}, '{key}[{index}]'"))
        return found

    def numbers(self, key: str) -> Sequence[float | None]:
        """The list under `key` whose entries are finite numbers or null; empty where it is missing."""
        listed = Record({str(index): value for index, value in enumerate(self.items(key))}, f"{self.where}, '{key}'")
        return tuple(listed.optional_number(index) for index in listed.fields)

    def _refuse(self, key: str, value: Json, expected: str) -> Never:
        got = "missing" if value is None else repr(value)[:60]
        raise PeerError(f"{self.where}: '{key}' is {got}, expected {expected}")
