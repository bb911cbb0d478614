"""Features in packages of their own: a fold with an event and a section of the report; one that is asked everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import plait
from plait.config import admit_features, config_from_table
from plait.errors import ConfigError
from plait.feature import Feature
from plait.rounds.events import RoundFinished
from plait.trust.provision import provision
from tests.attending import served, shares_of
from tests.commands import run_command
from tests.features.conftest import NAMES, SMALL, rows

WEIGHTS = "adapter/adapter_model.safetensors"
KEPT = {"smallest_kept": 2, "keep_updates": True}


Plait = Callable[..., Any]


def simulated(out: Path, **more: object) -> plait.Result:
    given = {"partition": "natural:author", "clients": len(NAMES), **SMALL, **KEPT, **more}
    return plait.simulate(rows(), out=out, **given)  # type: ignore[arg-type]


def left_out(run: Path) -> list[tuple[int, list[str]]]:
    lines = map(json.loads, (run / "ledger.jsonl").read_text().splitlines())
    return [(line["round"], line["clients"]) for line in lines if line["event"] == "left_out_as_large"]


def command(*arguments: object, site: Path | None) -> subprocess.CompletedProcess[str]:
    found = f"sys.path.append({str(site)!r}); " if site else ""
    program = f"import sys; {found}from plait.cli.main import main; main()"
    return run_command(*arguments, env={**os.environ, "COLUMNS": "100"}, program=program, timeout=600)


def test_the_package_is_small() -> None:
    files = (Path(__file__).parent / "outside/smallest").rglob("*.py")
    assert sum(len(file.read_text().splitlines()) for file in files) < 150


@pytest.mark.slow
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


@pytest.mark.slow
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
    plait.resume(stopped, data=rows(), callbacks=[lambda _event: None], allow=["smallest-kept=2"], quiet=True)
    assert (stopped / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert left_out(stopped) == left_out(whole)

    named = ("--allow", "smallest-kept=2")
    verified = command("verify", whole, *named, site=outside)
    assert "2 recomputed, bit for bit" in verified.stdout, verified.stderr
    assert "feature smallest: source" in verified.stdout
    assert "Left out as large" in command("report", whole, *named, site=outside).stdout
    assert "--smallest-kept" in command("simulate", "--help-all", site=outside).stdout

    without = command("verify", whole, site=None)
    assert (without.returncode, without.stdout) == (2, "")
    assert "uses the feature 'smallest' of plait-smallest 1.0, which is not installed here" in without.stderr

    unnamed = command("verify", whole, site=outside)
    assert unnamed.returncode == 2
    assert "a setting of the feature 'smallest' of plait-smallest 1.0" in unnamed.stderr
    assert "Left out as large" not in command("report", whole, site=outside).stdout


@pytest.mark.slow
def test_a_run_over_grpc_has_the_bits_of_its_simulation(outside: Path, tmp_path: Path) -> None:
    simulated(tmp_path / "simulated")
    training = {key: value for key, value in SMALL.items() if key != "quiet"}
    run = tmp_path / "served"
    assert served(run, shares_of(rows()), tmp_path, clients=3, **training, **KEPT).finished
    assert (run / WEIGHTS).read_bytes() == (tmp_path / "simulated" / WEIGHTS).read_bytes()
    assert left_out(run) == left_out(tmp_path / "simulated")


# Of plait's protocol and `import plait`; those of which the first counts; those that would change the witness's run.
OWN = {"messages", "replies", "names", "spreading", "live_page", "journal"}
OWN |= {"parts", "contracts", "usual_objectives", "optimizers"}


def test_every_seam_is_used_from_outside_or_is_plaits_own(outside: Path) -> None:
    import smallest
    import witness

    used = {
        each.name
        for feature in (smallest.FEATURE, witness.FEATURE)
        for each in fields(feature)
        if getattr(feature, each.name)
    }
    assert {each.name for each in fields(Feature)} - used == OWN


@pytest.mark.slow
def test_a_feature_from_outside_is_asked_wherever_one_of_plaits_own_is(
    outside: Path, tmp_path: Path, plait: Plait
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    training = {**{key: value for key, value in SMALL.items() if key != "quiet"}, "clients": len(NAMES)}
    options = ("--witness-on", *(f"--{key.replace('_', '-')}={value}" for key, value in training.items()))
    run = tmp_path / "run"
    simulation = plait("simulate", *options, "--data", data, "--partition=natural:author", "--out", run)
    assert simulation.code == 0, simulation.err
    assert "nothing happened" in simulation.out
    assert "--witness-on" in plait("simulate", "--help").out
    assert plait("verify", run).code == 0
    assert '"witnessed"' in plait("estimate", *options, "--json").out
    assert plait("witness", "it").out == "witness of it\n"

    provision(tmp_path / "kits", NAMES, ["localhost"], now=datetime.now(UTC))
    answer = served(
        tmp_path / "served", shares_of(rows()), tmp_path, kits=tmp_path / "kits", witness_on=True, **training
    )
    assert answer.finished
    assert (tmp_path / "served" / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()

    import witness

    assert config_from_table({"witness-on": True, "objective": "witnessed"}).learned.is_plain
    assert witness.ANSWERS.keys() - witness.ASKED == set()
    with pytest.raises(ConfigError, match="client-ranks is '2,4' and witness-on is true"):
        config_from_table({"witness-on": True, "client-ranks": "2,4"})
