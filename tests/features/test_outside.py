"""A feature in a package of its own: a fold with a setting, an event of the ledger and a section of the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import plait
from plait.config import admit_features, config_from_table
from plait.errors import ConfigError
from plait.rounds.events import RoundFinished
from tests.attending import served, shares_of
from tests.features.conftest import NAMES, SMALL, rows

PLAIT = Path(sys.executable).with_name("plait")
WEIGHTS = "adapter/adapter_model.safetensors"
KEPT = {"smallest_kept": 2, "keep_updates": True}


def simulated(out: Path, **more: object) -> plait.Result:
    given = {"partition": "natural:author", "clients": len(NAMES), **SMALL, **KEPT, **more}
    return plait.simulate(rows(), out=out, **given)  # type: ignore[arg-type]


def left_out(run: Path) -> list[tuple[int, list[str]]]:
    lines = map(json.loads, (run / "ledger.jsonl").read_text().splitlines())
    return [(line["round"], line["clients"]) for line in lines if line["event"] == "left_out_as_large"]


def command(*arguments: object, site: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site or ""), "COLUMNS": "100"}
    return subprocess.run(
        [PLAIT, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_package_is_small() -> None:
    files = (Path(__file__).parent / "outside").rglob("*.py")
    assert sum(len(file.read_text().splitlines()) for file in files) < 150


def test_a_setting_that_came_from_elsewhere_imports_no_outsiders_module(outside: Path) -> None:
    with pytest.raises(ConfigError, match=r"feature 'smallest' of plait-smallest 1\.0, which this machine's operator"):
        config_from_table({"smallest-kept": 2})
    assert "smallest" not in sys.modules
    admit_features({"rank": 2, "smallest": {"smallest-kept": 2}})
    assert "smallest" not in sys.modules
    config = config_from_table({"smallest": {"smallest-kept": 2}})
    assert config == config_from_table({"smallest_kept": 2})
    assert config.to_table()["smallest-kept"] == 2
    assert not config_from_table({"smallest-kept": 0}).wanted


def test_what_it_needs_and_another_setting_takes_is_refused_with_both(outside: Path) -> None:
    admit_features({"smallest-kept": 2})
    with pytest.raises(ConfigError, match=r"smallest-kept is 2 and secure-aggregation is true, .*their norms are comp"):
        config_from_table({"smallest-kept": 2, "secure-aggregation": True})
    config_from_table({"smallest-kept": 0, "secure-aggregation": True})


def test_a_feature_whose_setting_lacks_its_name_is_refused(outside: Path) -> None:
    declared = (outside / "smallest/settings.py").read_text()
    (outside / "smallest/settings.py").write_text(declared.replace("smallest_kept", "kept"))
    admit_features({"smallest-kept": 2})
    with pytest.raises(ConfigError, match="declares 'kept', expected 'smallest' or a setting 'smallest-…'"):
        config_from_table({"smallest-kept": 2})


@pytest.mark.slow
def test_a_run_with_it_goes_on_where_it_was_stopped_and_is_verified_and_reported(outside: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    simulated(whole)
    assert [number for number, clients in left_out(whole) if len(clients) == 1] == [1, 2]
    shown = (whole / "report.html").read_text()
    assert "<summary>Left out as large</summary>" in shown
    assert "Bars: clients left out, by round." in shown
    assert json.loads((whole / "summary.json").read_text())["left_out"] == 2

    def pause(event: plait.Event) -> plait.Stop | None:
        return plait.Stop.PAUSE if isinstance(event, RoundFinished) and event.round == 1 else None

    stopped = tmp_path / "stopped"
    assert not simulated(stopped, callbacks=[pause]).finished
    # As a kill leaves it after the checkpoint of round 1 and before what the ledger says of the round.
    ledger = (stopped / "ledger.jsonl").read_text().splitlines(keepends=True)
    cut = next(index for index, line in enumerate(ledger) if '"left_out_as_large"' in line)
    (stopped / "ledger.jsonl").write_text("".join(ledger[:cut]))
    plait.resume(stopped, data=rows(), callbacks=[lambda _event: None], quiet=True)
    assert (stopped / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert left_out(stopped) == left_out(whole)

    verified = command("verify", whole, site=outside)
    assert "2 recomputed, bit for bit" in verified.stdout, verified.stderr
    assert "feature smallest: source" in verified.stdout
    assert "Left out as large" in command("report", whole, site=outside).stdout
    assert "--smallest-kept" in command("simulate", "--help-all", site=outside).stdout

    without = command("verify", whole, site=None)
    assert (without.returncode, without.stdout) == (2, "")
    assert "uses the feature 'smallest' of plait-smallest 1.0, which is not installed here" in without.stderr

    # A directory that came from elsewhere.
    (whole / ".ledger.jsonl.own").unlink()
    received = command("verify", whole, site=outside)
    assert received.returncode == 2
    assert "a setting of the feature 'smallest' of plait-smallest 1.0" in received.stderr
    assert "Left out as large" not in command("report", whole, site=outside).stdout
    named = command("verify", whole, "--allow", "smallest-kept=2", site=outside)
    assert "2 recomputed" in named.stdout, named.stderr


@pytest.mark.slow
def test_a_run_over_grpc_has_the_bits_of_its_simulation(outside: Path, tmp_path: Path) -> None:
    simulated(tmp_path / "simulated")
    training = {key: value for key, value in SMALL.items() if key != "quiet"}
    run = tmp_path / "served"
    assert served(run, shares_of(rows()), tmp_path, clients=3, **training, **KEPT).finished
    assert (run / WEIGHTS).read_bytes() == (tmp_path / "simulated" / WEIGHTS).read_bytes()
    assert left_out(run) == left_out(tmp_path / "simulated")
