from __future__ import annotations

import math

import pytest

from plait.report import wording


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1000, "1.00 kB"),
        (9_996, "10.0 kB"),
        (999_600, "1.00 MB"),
        (43.04e9, "43.0 GB"),
    ],
)
def test_bytes_have_three_digits_and_a_decimal_unit(count: float, text: str) -> None:
    assert wording.bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.35, "350 ms"),
        (252.0, "4 min 12 s"),
        (3 * 3600 + 5 * 60, "3 h 05 min"),
        (12.5 * 86400, "12.5 days"),
    ],
)
def test_a_duration_has_the_two_units_that_matter(seconds: float, text: str) -> None:
    assert wording.duration_text(seconds) == text


def test_control_and_direction_characters_are_taken_out() -> None:
    assert wording.clean("a\x1b[31mb\u202ec\u200bd\x00\n e") == "a [31mb c d e"
    assert wording.clean("x" * 300, limit=10) == "x" * 9 + "…"


def test_perplexity_is_the_exponential_and_never_overflows() -> None:
    assert wording.perplexity_text(math.log(5.81)) == "5.81"
    assert wording.perplexity_text(1e6) == "over 10⁹"


def test_a_change_carries_its_sign_and_a_real_minus() -> None:
    assert wording.change_text(1.0, 1.25) == "\N{MINUS SIGN}0.250"
    assert wording.change_text(1.25, 1.0) == "+0.250"
    assert wording.change_text(None, 1.0) == wording.NOTHING
