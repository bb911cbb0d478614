"""What base and adapter write at the end of a run: kept once, repeatable, left out where it must be."""

import json
from pathlib import Path

import pytest

import plait
from plait.errors import PeerError
from plait.report.samples import FILE, samples_in, samples_table
from tests.plait.api.conftest import SMALL, rows


def run(out: Path, **more: object) -> plait.Result:
    given = {"partition": "natural:author", **SMALL, **more}
    return plait.simulate(rows(), out=out, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> plait.Result:
    """A run that asks for samples; not to be changed."""
    return run(tmp_path_factory.mktemp("samples") / "run", samples=3)


@pytest.mark.slow
def test_each_client_s_held_out_beginning_is_continued_twice(asked):
    found = samples_in(asked.path)
    assert [sample.client for sample in found] == ["ada", "bob", "eve"]
    assert all(all(sample) for sample in found)


@pytest.mark.slow
def test_the_report_shows_them_and_is_the_same_when_it_is_made_again(asked):
    from plait.report.summary import write_report

    page = (asked.path / "report.html").read_text()
    assert "What it writes" in page
    write_report(asked.path)
    assert (asked.path / "report.html").read_text() == page


@pytest.mark.slow
def test_the_same_run_writes_the_same(asked, tmp_path):
    assert samples_in(run(tmp_path / "again", samples=3).path) == samples_in(asked.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "count"),
    [
        ({"quiet": False}, 0),
        ({"quiet": False, "data": "stdlib", "partition": "natural:package"}, 2),
        ({"quiet": False, "data": "stdlib", "partition": "natural:package", "samples": 0}, 0),
        ({"data": "stdlib", "partition": "natural:package"}, 0),
        ({"samples": 2, "secure_aggregation": True}, 0),
    ],
    ids=["own data", "bundled data", "bundled data, none asked for", "quiet", "masked"],
)
def test_records_are_shown_of_bundled_data_or_where_that_is_asked_for(more, count, tmp_path):
    given = {"partition": "natural:author", "data": rows(), **SMALL, **more}
    assert len(samples_in(plait.simulate(out=tmp_path / "run", **given).path)) == count  # type: ignore[arg-type]


def written(folder: Path, *samples: object) -> Path:
    (folder / FILE).write_text(json.dumps(samples))
    return folder


def test_a_damaged_file_is_told_and_not_quoted(tmp_path):
    with pytest.raises(PeerError, match="is damaged") as told:
        samples_table(written(tmp_path, ["ada", "a secret"]))
    assert "secret" not in repr(told.value)
    assert told.value.__cause__ is None
