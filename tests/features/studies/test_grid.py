from __future__ import annotations

import re
from pathlib import Path

import pytest

from plait.errors import ConfigError
from plait.features.studies.grid import Grid, out_of, read_grid


def places(grid: Grid) -> list[tuple[object, ...]]:
    return [(*cell.place.values(), cell.seed) for cell in grid.cells]


def test_every_combination_runs_once_with_every_seed_and_the_first_seed_comes_first() -> None:
    grid = read_grid({"rounds": 2, "seeds": [5, 6], "grid": {"rule": ["fedavg", "ffa"], "wire": [1, 2]}})
    combinations = [("fedavg", "1"), ("fedavg", "2"), ("ffa", "1"), ("ffa", "2")]
    assert places(grid) == [(*each, seed) for seed in (5, 6) for each in combinations]
    # A wire is text, whatever TOML calls it.
    assert grid.cells[1].settings == {"rounds": 2, "rule": "fedavg", "wire": "2", "seed": 5}
    assert grid.axes == ("rule", "wire")
    assert grid.cells[1].label == "rule fedavg, wire 2"


def test_settings_that_change_together_are_one_axis_with_names_of_its_values() -> None:
    scenarios = {"few": {"clients": 3, "partition": "iid"}, "many": {"num_clients": 20, "partition": "square"}}
    grid = read_grid({"grid": {"scenario": scenarios, "rank": [2, 4]}})
    assert [cell.label for cell in grid.cells] == [
        "scenario few, rank 2",
        "scenario few, rank 4",
        "scenario many, rank 2",
        "scenario many, rank 4",
    ]
    assert grid.cells[3].settings == {"clients": 20, "partition": "square", "rank": 4, "seed": 0}


def test_runs_of_one_base_come_together_so_that_it_is_loaded_once() -> None:
    grid = read_grid({"seeds": [0, 1], "grid": {"base": ["tiny", "smollm2-135m"], "rank": [2, 4]}})
    assert [cell.settings["base"] for cell in grid.cells] == ["tiny"] * 4 + ["smollm2-135m"] * 4
    assert [cell.seed for cell in grid.cells] == [0, 0, 1, 1] * 2


def test_a_name_is_one_of_a_directory_and_follows_from_the_place_alone() -> None:
    rules = ["fedavg", "trimmed_mean:share=0.1", "trimmed_mean:share=0,1", "../../etc", "x" * 300]
    names = [cell.name for cell in read_grid({"grid": {"rule": rules}}).cells]
    assert names[0] == "rule-fedavg_seed-0"
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", name) for name in names)
    assert [cell.name for cell in read_grid({"grid": {"rule": rules[2:]}}).cells] == names[2:]


def test_what_is_given_takes_the_place_of_what_all_have() -> None:
    grid = read_grid({"rounds": 2, "seeds": [0], "grid": {"rank": [2]}}, given={"rounds": 1}, seeds=(3, 4))
    assert [(cell.settings["rounds"], cell.seed) for cell in grid.cells] == [(1, 3), (1, 4)]
    with pytest.raises(ConfigError, match="rank is 4 for all runs, but"):
        read_grid({"grid": {"rank": [2]}}, given={"r": 4})
    assert [cell.settings["rank"] for cell in read_grid({"rank": 8, "grid": {"rank": [2, 4]}}).cells] == [2, 4]


def test_a_sweep_is_named_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "rates.toml"
    path.write_text('rounds = 2\n[grid]\nrank = [2]\nrule = [{name = "trimmed_mean", share = 0.1}]\n')
    assert out_of(path) == Path("runs/rates")
    assert read_grid(path).cells[0].place == {"rank": "2", "rule": "name=trimmed_mean share=0.1"}
    path.write_text('out = "runs/other"\n')
    assert out_of(path) == Path("runs/other")
    assert "out" not in read_grid(path).cells[0].settings


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"grid": {"rul": ["fedavg"]}}, r"\[grid\]: unknown key 'rul'; did you mean 'rule'"),
        ({"gird": {"rule": ["fedavg"]}}, "unknown key 'gird'; did you mean 'grid'"),
        ({"grid": {"rule": "fedavg"}}, "rule is 'fedavg', expected a list"),
        ({"grid": {"rule": []}}, "expected a list of values"),
        ({"grid": {"rule": ["ffa", "ffa"]}}, "'rule-ffa_seed-0' is there twice"),
        ({"grid": {"out": ["a", "b"]}}, "once for the whole sweep"),
        ({"grid": {"rank": [2], "size": {"small": {"r": 4}}}}, "rank is given by two parts"),
        ({"grid": {"size": {"small": {"rnak": 4}}}}, r"\[grid.size.small\]: unknown key 'rnak'; did you mean 'rank'"),
        ({"grid": {"size": {"small": 4}}}, "size.small is 4, expected a table"),
        ({"seeds": "0,1"}, "expected a list of whole numbers"),
        ({"seeds": [0], "grid": {"seed": [1]}}, "seeds and seed are both given"),
        ({"seeds": [*range(1000)], "grid": {"rank": [*range(1, 201)]}}, "makes 200,000 runs"),
    ],
)
def test_what_cannot_be_is_one_line(table: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as told:
        read_grid(table)
    assert "\n" not in str(told.value)
