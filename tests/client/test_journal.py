from __future__ import annotations

import io
import json
import re

from client.journal import Journal, Style


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
