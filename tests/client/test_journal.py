import io
import json

from client.task import Journal, Style, failure, shown


def test_programs_get_an_object_an_event():
    screen = io.StringIO()
    Journal(Style.JSON, screen).report("sent", "round 1: sent 3 kB", sent_bytes=3000)
    event = json.loads(screen.getvalue())
    assert (event["event"], event["sent_bytes"]) == ("sent", 3000)
    assert set(event) == {"time", "event", "text", "sent_bytes"}


def test_a_screen_that_is_gone_does_not_end_the_node():
    screen = io.StringIO()
    journal = Journal(Style.LINES, screen)
    screen.close()
    journal.report("sent", "not read")
    journal.report("sent", "nor this")


def test_text_from_outside_becomes_one_short_printable_line():
    assert shown("two\nlines\x1b[31m") == "two lines [31m"
    assert len(shown("x" * 10_000)) == 200


def test_a_failure_is_told_by_kind_and_place_never_by_its_own_words():
    try:
        raise KeyError("text of a client")
    except KeyError as error:
        told = failure(error)
    assert told.startswith("KeyError at test_journal.py:")
    assert "client" not in told
