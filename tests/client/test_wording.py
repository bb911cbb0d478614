from __future__ import annotations

import pytest

from client.wording import failure, shown, size


def test_text_from_outside_becomes_one_short_printable_line() -> None:
    assert shown("two\nlines\x1b[31m") == "two lines [31m"
    assert len(shown("x" * 10_000)) == 200


def test_a_failure_is_told_by_kind_and_place_never_by_its_own_words() -> None:
    try:
        raise KeyError("text of a client")
    except KeyError as error:
        told = failure(error)
    assert told.startswith("KeyError at test_wording.py:")
    assert "client" not in told


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (7_000_000_000, "7.0 GB")],
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size(count) == text
