from __future__ import annotations

import io
import json
import re

import pytest

from client.journal import Journal, Style, failure, shown, size


def test_people_get_a_line_an_event() -> None:
    screen = io.StringIO()
    Journal(Style.LINES, screen).tell("sent", "round 1: sent 3 kB", sent_bytes=3000)
    assert re.fullmatch(r"\d\d:\d\d:\d\d round 1: sent 3 kB\n", screen.getvalue())


def test_programs_get_an_object_an_event() -> None:
    screen = io.StringIO()
    Journal(Style.JSON, screen).tell("sent", "round 1: sent 3 kB", sent_bytes=3000)
    event = json.loads(screen.getvalue())
    assert (event["event"], event["sent_bytes"]) == ("sent", 3000)
    assert set(event) == {"time", "event", "text", "sent_bytes"}


def test_quiet_is_quiet() -> None:
    screen = io.StringIO()
    Journal(Style.QUIET, screen).tell("sent", "round 1: sent 3 kB")
    assert screen.getvalue() == ""


def test_a_screen_that_is_gone_does_not_end_the_node() -> None:
    screen = io.StringIO()
    journal = Journal(Style.LINES, screen)
    screen.close()
    journal.tell("sent", "not read")
    journal.tell("sent", "nor this")


def test_text_from_outside_becomes_one_short_printable_line() -> None:
    assert shown("two\nlines\x1b[31m") == "two lines [31m"
    assert len(shown("x" * 10_000)) == 200


def test_a_failure_is_told_by_kind_and_place_never_by_its_own_words() -> None:
    try:
        raise KeyError("text of a client")
    except KeyError as error:
        told = failure(error)
    assert told.startswith("KeyError at test_journal.py:")
    assert "client" not in told


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (7_000_000_000, "7.0 GB")],
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size(count) == text
