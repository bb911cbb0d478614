import re
from pathlib import Path

import pytest

from tests.plait.studies.conftest import make_run

__all__ = ["make_run"]


@pytest.fixture
def runs(make_run) -> list[Path]:
    return [
        make_run(f"{rule}-{seed}", loss + seed / 10, seed=seed, rule=rule, sent=sent)
        for rule, loss, sent in (("fedavg", 3.0, 1000), ("flexlora", 2.5, 2000), ("krum", 3.2, 3000))
        for seed in (0, 1, 2)
    ]


def test_the_table_fits_80_columns_and_shows_means_and_differences(plait, runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ran = plait("compare", *runs)
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= 80
    named = re.findall(r"^ *rule (\S+)", ran.out, re.MULTILINE)
    assert "2.600" in ran.out
    # The same for all three seeds: the difference is exact.
    assert re.search("rule flexlora +\N{MINUS SIGN}0[.]500 ± 0[.]000 +3 seeds +lower", ran.out)
    # Those with the lowest loss first; the baseline is in no difference, and stands in the title.
    assert (named[:3], named[-2:]) == (["flexlora", "fedavg", "krum"], ["flexlora", "krum"])
    assert "Difference of held-out loss to rule fedavg" in ran.out


def test_the_page_is_one_file_that_loads_nothing(plait, runs, tmp_path):
    page = tmp_path / "compare.html"
    assert plait("compare", *runs, "--page", page, "--baseline", runs[3]).code == 0
    html = page.read_text()
    assert not re.findall(r"<script|<link|@import|(?:src|href)=[\"'](?!data:|#)|url\((?!data:|#)", html)
    assert "prefers-color-scheme: dark" in html
    assert "Difference of held-out loss to rule flexlora" in html
