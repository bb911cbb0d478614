from __future__ import annotations

import math

import pytest

from plait.adapters import Json
from plait.errors import PeerError
from plait.report.record import Record


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (True, "count"),
        (-1, "count"),
        (1.5, "count"),
        ("7", "count"),
        (None, "count"),
        (math.nan, "number"),
        (math.inf, "number"),
        (False, "number"),
        ("1", "number"),
        (1, "text"),
        (None, "text"),
        ([], "record"),
        ({}, "items"),
        ([1], "records"),
        (["x"], "numbers"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_place(value: Json, read: str) -> None:
    record = Record({"key": value}, "event 3 (evaluated)")
    with pytest.raises(PeerError, match=r"event 3 \(evaluated\).*expected"):
        getattr(record, read)("key")


def test_missing_and_null_are_the_same_to_optional_reads() -> None:
    for record in (Record({}, "here"), Record({"key": None}, "here")):
        assert record.optional_text("key") is None
        assert record.optional_number("key") is None
        assert record.optional_count("key") is None
        assert not record.record("key").fields
        assert not record.items("key")
        assert not record.records("key")


def test_a_list_of_numbers_keeps_its_gaps() -> None:
    assert Record({"key": [1, None, 2.5]}, "here").numbers("key") == (1.0, None, 2.5)


def test_an_error_never_carries_a_long_value() -> None:
    with pytest.raises(PeerError) as caught:
        Record({"key": "x" * 10_000}, "here").number("key")
    assert len(str(caught.value)) < 200
