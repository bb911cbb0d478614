import logging

import pytest

from server.log import say, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("alice", "alice"),
        (3, "3"),
        ("ipv4:127.0.0.1:80", "ipv4:127.0.0.1:80"),
        ("two words", '"two words"'),
        ("a\nb", '"a\\nb"'),
        ("a=b", '"a=b"'),
        ('"', '"\\""'),
        ("é\x1b[0m", '"\\u00e9\\u001b[0m"'),
        ("", '""'),
    ],
)
def test_a_value_is_one_escaped_word(value, text):
    assert shown(value) == text


def test_a_long_value_is_cut():
    assert shown("a" * 1000) == "a" * 200 + "..."


def test_an_event_is_one_line_of_keys_and_values(caplog):
    caplog.set_level(logging.INFO, logger="plait.server")
    say("attached", node="alice", detail="100 % new")

    assert caplog.messages == ['event=attached node=alice detail="100 % new"']
