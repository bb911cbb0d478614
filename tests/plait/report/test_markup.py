from __future__ import annotations

from plait.report.markup import Markup, element, fragment


def test_text_is_escaped_and_markup_is_not() -> None:
    child = element("b", "<i>")
    assert element("p", "a < b & ", child).source == "<p>a &lt; b &amp; <b>&lt;i&gt;</b></p>"


def test_an_attribute_cannot_be_left() -> None:
    assert element("img", alt='"><script>', class_="x").source == '<img alt="&quot;&gt;&lt;script&gt;" class="x">'


def test_control_characters_are_taken_out() -> None:
    assert fragment("a\x00\x1b\u202eb\nc").source == "a   b c"


def test_an_empty_fragment_is_empty_markup() -> None:
    assert fragment() == Markup("")
