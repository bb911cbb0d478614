import re
from html.parser import HTMLParser

from plait.report.answers import answers
from plait.report.html import render_html
from plait.report.table import Table
from tests.plait.conftest import view_of

NAMES = ("loss_by_round", "loss_by_bytes", "clients")
PLOTS = {name: {"wide": "<svg></svg>", "narrow": "<svg></svg>"} for name in NAMES}
VOID = {"img", "meta", "source", "br", "link"}


def page_of(view) -> str:
    return render_html(view, PLOTS, ":root {}")


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails where tags do not nest."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data) -> None:
        self.text += data


def test_hostile_strings_reach_the_page_as_text_alone(hostile_run):
    source = page_of(view_of(hostile_run))
    page = Page(source)
    assert not {"script", "b", "red"} & set(page.tags)
    assert "img" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text
    assert '"><img src=x onerror=alert(1)>' in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", source)


def test_code_keeps_its_lines_and_no_tag(small_run):
    table = Table(
        "Code", ("", "text"), (("prompt", "if a < b:\n    <b>c</b>"),), text_columns=(0, 1), code_columns=(1,)
    )
    source = render_html(view_of(small_run), PLOTS, ":root {}", shown=[table])
    assert "if a &lt; b:\n    &lt;b&gt;c&lt;/b&gt;" in source
    assert "b" not in Page(source).tags


def test_the_page_asks_for_nothing_from_outside(small_run):
    source = page_of(view_of(small_run))
    page = Page(source)
    assert "http:" not in source
    assert "https:" not in source
    assert "@import" not in source
    assert "url(" not in source
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not [(tag, name) for tag, name, _ in page.attributes if name in ("src", "srcset", "href")]


def test_the_page_holds_headline_tables_plots_settings_versions_and_command(small_run):
    view = view_of(small_run)
    page = Page(page_of(view))
    for each in answers(view):
        assert each.short in page.text
        assert each.text in page.text
    assert page.tags.count("svg") == 2 * len(PLOTS)
    assert all(value for tag, name, value in page.attributes if (tag, name) == ("figure", "aria-label"))
    for text in ("learning-rate", "0.1.0", view.start.base.fingerprint, view.last.hash, "plait simulate --partition"):
        assert text in page.text
    assert "has not finished" not in page.text
