from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.plait.cli.conftest import write_jsonl


@pytest.fixture
def grid(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "my.jsonl")
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        data = "my.jsonl"
        partition = "natural:author"
        clients = 3
        base = "tiny"
        rounds = 1
        local-steps = 1
        batch-size = 2
        seq-len = 32

        [grid]
        rank = [2, 9999]
        """
    )
    return path


@pytest.mark.slow
def test_a_sweep_shows_what_ran_names_what_failed_and_answers_with_1(grid: Path, plait) -> None:
    ran = plait("sweep", grid, "--seeds", "0,1", "--page", "page.html")
    assert ran.code == 1
    assert "rank 2" in ran.out
    assert "[1/4] rank 9999, seed 0: failed: " in ran.err
    assert "rank is 9999" in ran.err
    assert "[4/4] rank 2, seed 1: held-out loss " in ran.err
    assert ran.err.splitlines()[-2].startswith("failed: rank-9999_seed-0: ")
    assert "2 seeds" not in ran.out
    assert "<h2>Learning curves</h2>" in Path("page.html").read_text()
    again = plait("sweep", grid, "--seeds", "0,1", "--json")
    found = json.loads(again.out)
    assert [row["status"] for row in found["runs"]] == ["finished", "failed"] * 2
    assert found["comparison"]["groups"][0]["seeds"] == 2
    assert Path("runs/mine/results.csv").is_file()


def test_what_cannot_be_is_one_line(grid: Path, plait) -> None:
    for options, said in {
        ("--seeds", "0,x"): "--seeds is '0,x'",
        ("--seed", "3"): "give --seeds",
        ("--rank", "4"): "rank is 4 for all runs",
        ("--batch-sise", "4"): "No such option",
    }.items():
        ran = plait("sweep", grid, *options)
        assert (ran.code, ran.out) == (2, "")
        assert said in ran.err
    assert plait("sweep", "nowhere.toml").err.splitlines()[-1].startswith("error: cannot read 'nowhere.toml'")
