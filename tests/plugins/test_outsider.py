"""Parts in a distribution of their own, installed without network, found by their plain names in new processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plait.ledger.events import RunStarted
from plait.ledger.ledger import read_events
from tests.commands import run_command

HERE = Path(__file__).parent
PLAIT = Path(sys.executable).with_name("plait")
# What PYTHONPATH does at the start of Python, in a process that is forked.
FORKED = """
import sys
sys.path[:0] = filter(None, [sys.argv.pop(1)])
from plait.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the distribution is installed."""
    folder = tmp_path_factory.mktemp("outsider")
    source = shutil.copytree(HERE / "outsider", folder / "source")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", folder / "site", source]
    subprocess.run(command, check=True, env={**os.environ, "PIP_NO_INPUT": "1"})
    return folder / "site"


@pytest.fixture
def plait(site: Path, tmp_path: Path):
    def run(*arguments: str, path: Path | None = site, anew: bool = False) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(path) if path else "", "COLUMNS": "200"}
        if not anew:
            return run_command(path or "", *arguments, cwd=tmp_path, env=environment, program=FORKED)
        return subprocess.run(
            [PLAIT, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    lines = [{"text": f"line {number} of the text\n" * (1 + number % 9)} for number in range(90)]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.mark.slow
def test_a_run_uses_every_part_and_records_where_it_came_from(plait, tmp_path):
    settings = (
        "simulate", "--data", "my.jsonl", "--clients", "3", "--base", "tiny", "--rounds", "2", "--local-steps", "2",
        "--batch-size", "2", "--seq-len", "32", "--rule", "median_of_means:groups=3", "--loss", "focal:gamma=1",
        "--bits", "uniform8", "--partition", "by_length:descending=true", "--out", "run", "--json",
    )  # fmt: skip
    ran = plait(*settings)
    assert ran.returncode == 0, ran.stderr
    started = next(event for event in read_events(tmp_path / "run/ledger.jsonl") if isinstance(event, RunStarted))
    assert {(part.kind, part.name, part.distribution) for part in started.plugins} == {
        ("rule", "median_of_means", "outsider 1.0"),
        ("loss", "focal", "outsider 1.0"),
        ("codec", "uniform8", "outsider 1.0"),
        ("partition", "by_length", "outsider 1.0"),
    }
    assert all(len(part.sha256) == 64 for part in started.plugins)
    updates = [event for event in read_events(tmp_path / "run/ledger.jsonl") if event.event == "update_received"]
    assert {event.codec for event in updates} == {"uniform8"}
    assert plait("verify", "run").stdout.count("as when the run began") == 4

    without = plait(*settings[:-2], "other", "--json", path=None)
    assert (without.returncode, without.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_each_part_keeps_its_contract_and_is_listed(plait):
    for name in ("median_of_means", "uniform8", "by_length", "focal", "rsdora", "numbers", "rounds"):
        checked = plait("check-plugin", name)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    rules = json.loads(plait("simulate", "--rule", "list", "--base", "tiny", "--json", anew=True).stdout)["rules"]
    (listed,) = (rule for rule in rules if rule["rule"] == "median_of_means")
    assert listed["options"] == [{"name": "groups", "default": 3, "description": "number of groups"}]


@pytest.mark.slow
def test_data_set_callback_method_and_trainer_are_found_by_their_names(plait, tmp_path):
    ran = plait(
        "simulate", "--data", "numbers", "--partition", "natural:author", "--clients", "2", "--base", "tiny",
        "--rounds", "9", "--local-steps", "2", "--batch-size", "2", "--seq-len", "32",
        "--callbacks", "rounds:most=1",
        "--method", "rsdora", "--trainer", "falling", "--out", "run", "--json",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert set(json.loads((tmp_path / "run/summary.json").read_text())["held_out_loss_by_client"]) == {"ada", "bob"}
    started = next(event for event in read_events(tmp_path / "run/ledger.jsonl") if isinstance(event, RunStarted))
    recorded = {(part.kind, part.name) for part in started.plugins}
    assert recorded == {
        ("method", "rsdora"), ("trainer", "falling"), ("dataset", "numbers"), ("callback", "rounds"),
    }  # fmt: skip
    assert json.loads((tmp_path / "run/summary.json").read_text())["rounds"] == 1
    config = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    assert (config["use_dora"], config["use_rslora"]) == (True, True)
