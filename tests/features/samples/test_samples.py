"""What base and adapter write at the end of a run: recorded once, repeatable, left out where it must be."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import plait
from plait.features.samples.sampled import Sampled, samples_table
from tests.features.conftest import SMALL, rows

TEXTS = {row["author"]: row["text"] for row in rows()}


def run(out: Path, **more: object) -> plait.Result:
    given = {"partition": "natural:author", "clients": 3, **SMALL, **more}
    return plait.simulate(rows(), out=out, **given)  # type: ignore[arg-type]


def sampled(result: plait.Result) -> list[Sampled]:
    return [event for event in result.events if isinstance(event, Sampled)]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> plait.Result:
    """A run that asks for samples; not to be changed."""
    return run(tmp_path_factory.mktemp("samples") / "run", samples=3)


@pytest.mark.slow
def test_each_client_s_held_out_beginning_is_continued_twice(asked: plait.Result) -> None:
    (found,) = sampled(asked)
    assert [sample.client for sample in found.samples] == ["ada", "bob", "eve"]
    for sample in found.samples:
        assert sample.beginning
        assert sample.base
        assert sample.adapter


@pytest.mark.slow
def test_the_report_shows_them_and_is_the_same_when_it_is_made_again(asked: plait.Result, tmp_path: Path) -> None:
    from plait.report.write import write_report

    page = (asked.path / "report.html").read_text()
    assert "What it writes" in page
    again = Path(shutil.copytree(asked.path, tmp_path / "again"))
    write_report(again)
    assert (again / "report.html").read_text() == page


@pytest.mark.slow
def test_the_same_run_writes_the_same(asked: plait.Result, tmp_path: Path) -> None:
    again = run(tmp_path / "again", samples=3)
    assert sampled(again)[0].samples == sampled(asked)[0].samples


@pytest.mark.slow
def test_a_quiet_run_has_none_unless_it_asks_and_a_loud_one_may_refuse(tmp_path: Path) -> None:
    assert not sampled(run(tmp_path / "quiet"))
    assert not sampled(run(tmp_path / "none", quiet=False, samples=0))
    assert len(sampled(run(tmp_path / "loud", quiet=False))[0].samples) == 2


@pytest.mark.slow
def test_a_run_that_hides_its_clients_data_shows_none_of_it(tmp_path: Path) -> None:
    hidden = run(tmp_path / "hidden", samples=2, secure_aggregation=True)
    assert not sampled(hidden)


def test_a_line_break_is_shown_and_a_long_text_cut() -> None:
    line = {"event": "sampled", "max_tokens": 4, "samples": [
        {"client": "ada", "beginning": "x" * 500 + "end", "base": "a\n  b", "adapter": "y" * 500}
    ]}  # fmt: skip
    table = samples_table(SimpleNamespace(of_features={"sampled": [Sampled.model_validate(line)]}))
    beginning, base, adapter = (row[1] for row in table.rows)
    assert beginning.endswith("xend")
    assert len(beginning) < 200
    assert base == "a \N{RETURN SYMBOL} b"
    assert adapter.startswith("yyy")
    assert len(adapter) < 200
