import io

import pytest

from plait.system.text import escaped, fitted, printable

HOSTILE = ["a\nb", "\x1b[2J", "\x9b31m", "\u202enur", "a\u200bb", "\u2028", "\ud800", "\x00", "\t"]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_unprintable_character_is_left_and_each_becomes_one_space(text):
    shown = printable(text)

    assert shown.isprintable()
    assert len(shown) == len(text)
    assert all(new == (old if old.isprintable() else " ") for old, new in zip(text, shown, strict=True))


def test_what_is_too_long_is_cut_to_the_limit_and_says_so():
    assert printable("x" * 10, limit=10) == "x" * 10
    assert printable("x" * 11, limit=10) == "x" * 9 + "\N{HORIZONTAL ELLIPSIS}"
    assert printable("x\ny", limit=2) == "x\N{HORIZONTAL ELLIPSIS}"


def test_letters_of_every_script_stay_as_they_are():
    assert printable("Zoë 王 שלום 🙂") == escaped("Zoë 王 שלום 🙂") == "Zoë 王 שלום 🙂"


@pytest.mark.parametrize("text", HOSTILE)
def test_escaping_keeps_what_is_hidden_readable(text):
    shown = escaped(text)

    assert shown.isprintable()
    assert shown.encode("ascii").decode("unicode_escape") == text


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_lines_of_its_width_and_a_file_the_text_as_it_is(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    text = "the run is not finished; `plait resume runs/first` continues it, or begins anew"
    assert fitted(text, io.StringIO()) == text
    assert fitted(text, Screen()).splitlines() == [
        "the run is not finished;",
        "`plait resume runs/first`",
        "continues it, or begins anew",
    ]
