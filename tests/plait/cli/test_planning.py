"""A commented file that runs, from a data file or three answers."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from plait.cli.planning import init
from plait.config import config_from_table
from plait.errors import ConfigError, PlaitError
from tests.attending import rows


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return path


def written() -> dict[str, object]:
    return tomllib.loads(Path("plait.toml").read_text())


def test_a_file_is_enough_and_its_authors_are_the_clients(data):
    init("my.jsonl")
    assert written()["partition"] == "natural:author"
    assert written()["clients"] == 3
    assert config_from_table(written()).data == "my.jsonl"


def test_columns_of_other_names_are_read_and_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.csv").write_text("site,note,code\n" + 2 * "north,a cough,R05\nsouth,a fever,R50\n")
    with pytest.raises(PlaitError, match="--columns text=note"):
        init("notes.csv")
    init("notes.csv", columns="text=note")
    assert config_from_table(written()).columns == "text=note"
    assert written()["partition"] == "natural:site"


def test_every_setting_is_explained_and_each_at_its_default_is_one_when_its_mark_goes(data):
    init("my.jsonl")
    text = Path("plait.toml").read_text()
    for line, following in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        if re.match(r"(# )?[a-z-]+ = ", following):
            assert line.startswith("# ")
    opened = re.sub(r"^# ([a-z-]+ = )", r"\1", text, flags=re.MULTILINE)
    assert config_from_table(tomllib.loads(opened)) == config_from_table(written())
    assert len(tomllib.loads(opened)) > len(written()) + 5


def test_three_answers_are_asked_for_where_nothing_is_named(data, monkeypatch):
    answers = iter(["my.jsonl", "", "tiny"])
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or next(answers))
    init()
    assert len(asked) == 3
    assert "[author]" in asked[1]
    assert written()["base"] == "tiny"


def test_a_file_that_is_there_stays_and_a_pipe_is_told_what_to_name(data, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(ConfigError, match=r"plait init my\.jsonl"):
        init()
    Path("plait.toml").write_text("rounds = 1\n")
    with pytest.raises(ConfigError, match="is there already"):
        init("my.jsonl")
    assert written() == {"rounds": 1}


@pytest.mark.slow
def test_the_file_runs(data, tmp_path):
    from plait.api.running import start
    from plait.cli.options import run_config

    init("my.jsonl")
    small = {
        "base": "tiny",
        "rounds": 1,
        "local_steps": 1,
        "batch_size": 2,
        "seq_len": 32,
        "out": str(tmp_path / "run"),
    }
    start(run_config(small, Path("plait.toml")), quiet=True)
    assert (tmp_path / "run/report.html").exists()
