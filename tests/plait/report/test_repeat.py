from __future__ import annotations

import shlex

import pytest
from flwr.common.config import parse_config_args

from plait.config import RunConfig
from plait.report.answers import repeat_command
from tests.plait.conftest import view_of


def test_the_command_gives_the_settings_that_differ_back_to_a_shell(hostile_run) -> None:
    config = view_of(hostile_run).start.config
    words = shlex.split(" ".join(repeat_command(config)))
    assert words[:2] == ["plait", "simulate"]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert given["--data"] == config["data"] == "a b'; rm -rf ~"
    usual = RunConfig().to_table()
    differing = {key: value for key, value in config.items() if value != usual.get(key, "")}
    assert given == {f"--{key}": str(value) for key, value in differing.items() if key != "out"}


@pytest.mark.parametrize("value", ["-x", "--rounds"])
def test_a_value_like_an_option_stays_a_value(value: str) -> None:
    assert repeat_command({"data": value}) == ("plait simulate", f"--data={value}")


@pytest.mark.parametrize("data", ["stdlib", "my data/it's.jsonl", 'a "b".jsonl', r"c:\\texts"])
def test_a_run_on_a_superlink_is_repeated_by_flower_with_the_data_that_it_named(data: str) -> None:
    config = {"data": "", "base": "tiny", "clients": 2, "keep-updates": True, "alpha": 0.5, "partition": "", "out": "x"}
    words = shlex.split(" ".join(repeat_command(config, data)))
    assert words[:3] == ["flwr", "run", "."]
    assert set(words[3::2]) == {"-c"}
    assert parse_config_args(words[4::2]) == {
        "data": data, "base": "tiny", "clients": 2, "keep-updates": True, "alpha": 0.5, "out": "DIR",
    }  # fmt: skip
