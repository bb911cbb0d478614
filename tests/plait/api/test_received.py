"""What follows from a run's directory: nothing that its operator does not name again."""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plait import plugins
from plait.api.received import admitted_settings, how_to_resume, leads_out
from plait.api.serving import Serving
from plait.cli.simulate import with_resume_hint
from plait.config import RunConfig, config_from_table, to_toml
from plait.errors import ConfigError, DiskFullError, PeerError
from plait.ledger.events import ClientsDescribed, Event
from plait.rounds.run_directory import RunDirectory, recorded_settings
from tests.plait.conftest import recorded
from tests.plait.rounds.conftest import started

Begun = Callable[..., RunDirectory]


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(plugins, "ADMITTED", set[str]())


@pytest.fixture
def begun(tmp_path: Path) -> Begun:
    def make(*, first: Event | None = None, **settings: object) -> RunDirectory:
        config = config_from_table(
            {"base": "tiny", **{key.replace("_", "-"): value for key, value in settings.items()}}
        )
        directory = RunDirectory.create(tmp_path / "run", config_toml=to_toml(config))
        recorded(directory.ledger, [first or started().model_copy(update={"config": config.to_table()})])
        return directory

    return make


def test_settings_that_differ_from_the_ledger_are_refused(begun):
    directory = begun(rounds=3)
    assert recorded_settings(directory).rounds == 3
    text = directory.config.read_text()
    directory.config.write_text(text.replace('publish = ""', 'publish = "http://127.0.0.1:9"'))
    with pytest.raises(
        ConfigError, match=r"publish is 'http://127.0.0.1:9' in .* but '' in the run's ledger.*put it back"
    ):
        recorded_settings(directory)
    directory.config.unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        recorded_settings(directory)


def test_a_ledger_without_settings_is_refused(begun):
    with pytest.raises(PeerError, match="does not begin with a run's settings"):
        recorded_settings(begun(first=ClientsDescribed(clients=())))


@pytest.mark.slow
def test_what_a_run_names_has_to_be_named_again(begun):
    directory = begun(rule="my_rules:mine:groups=2", data="my file.jsonl", publish="http://127.0.0.1:9")
    with pytest.raises(ConfigError) as refused:
        admitted_settings(directory)
    options = "--allow 'data=my file.jsonl' --allow publish=http://127.0.0.1:9 --allow rule=my_rules:mine:groups=2"
    assert str(refused.value).endswith(f"if you trust it, add {options}")
    assert set() == plugins.ADMITTED
    with pytest.raises(ConfigError, match=r"add --allow publish=http://127\.0\.0\.1:9$"):
        admitted_settings(directory, ["data=my file.jsonl", "rule=my_rules:mine:groups=2"])
    every = ["data=my file.jsonl", "rule=my_rules:mine:groups=2", "publish=http://127.0.0.1:9"]
    assert admitted_settings(directory, every).publish
    assert "my_rules" in plugins.ADMITTED


def test_every_module_of_what_is_named_again_is_admitted(begun):
    settings = {"callbacks": "one:a,two:b", "objective": "grpo:reward=three:c,group-size=4"}
    admitted_settings(begun(**settings), [f"{key}={value}" for key, value in settings.items()])
    assert {"one", "two", "three"} <= plugins.ADMITTED
    assert not plugins.ADMITTED & {"four"}


@pytest.mark.parametrize(
    ("allowed", "why"),
    [
        ("rule", "expected KEY=VALUE"),
        ("rule=other:rule", "has rule=my_rules:mine"),
        ("loss=my_rules:mine", "has no loss to allow"),
    ],
)
def test_nothing_else_can_be_allowed(begun, allowed, why):
    with pytest.raises(ConfigError, match=why):
        admitted_settings(begun(rule="my_rules:mine"), [allowed])


def test_the_command_that_continues_a_run_names_again_what_lies_outside_it(begun):
    directory = begun(rule="my_rules:mine", data="my file.jsonl")
    command = how_to_resume(recorded_settings(directory), Serving("127.0.0.1:9", "", "", 1.0, 7), page="127.0.0.1:8")
    words = shlex.split(command)
    assert words[:3] == ["plait", "resume", str(directory.path)]
    assert words[-2:] == ["--page", "127.0.0.1:8"]
    allowed = words[4:-2:2]
    assert allowed == ["data=my file.jsonl", "rule=my_rules:mine", "listen=127.0.0.1:9"]
    assert admitted_settings(directory, allowed[:2]).rule == "my_rules:mine"


def test_a_run_that_a_full_disk_stops_says_how_to_go_on(begun, tmp_path):
    out = begun().path
    for place, how in ((tmp_path / "none", "start it again"), (out, re.escape(f"continue with: plait resume {out}"))):
        with pytest.raises(DiskFullError, match=f"^full; {how}"), with_resume_hint(RunConfig(out=str(place))):
            raise DiskFullError("full")


@pytest.mark.parametrize(
    "settings",
    [{}, {"rule": "trimmed_mean:share=0.1"}, {"partition": "natural:author"}, {"objective": "dpo:beta=0.2"}],
)
def test_what_is_plait_s_own_leads_nowhere(settings):
    assert leads_out(RunConfig(base="tiny", **settings)) == {}  # pyright: ignore[reportArgumentType]


def test_no_module_is_imported_to_tell(begun, tmp_path, monkeypatch):
    (tmp_path / "told_by_a_stranger.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="--allow"):
        admitted_settings(begun(objective="grpo:reward=told_by_a_stranger:mine"))
    assert "told_by_a_stranger" not in sys.modules


def test_every_setting_that_is_a_text_is_known_to_lead_out_or_not():
    texts = {key for key, value in RunConfig().to_table().items() if isinstance(value, str)}
    inside = {
        "columns", "split", "norm-bound",
        "lr-schedule", "client-ranks", "target-modules", "weighting",
        "correction", "personalize", "judge-part", "select", "reference", "labels", "device", "dtype", "out",
    }  # fmt: skip
    outside = {"data": "my.jsonl", "base": "org/model", "publish": "p"}
    parts = {
        "rule", "server-optimizer", "bits", "method", "trainer", "loss", "objective", "partition",
        "callbacks",
    }  # fmt: skip
    assert texts == inside | outside.keys() | parts
    given = {**outside, **dict.fromkeys(parts, "my:part")}
    assert (
        leads_out(RunConfig.model_construct(**{key.replace("-", "_"): value for key, value in given.items()})) == given
    )
