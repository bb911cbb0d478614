from __future__ import annotations

from plait.report import wording


def test_control_and_direction_characters_are_taken_out() -> None:
    assert wording.clean("a\x1b[31mb\u202ec\u200bd\x00\n e") == "a [31mb c d e"
    assert wording.clean("x" * 300, limit=10) == "x" * 9 + "…"
