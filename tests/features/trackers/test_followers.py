"""Trackers follow a run; whatever they do, it goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from plait.api.received import leads_out
from plait.api.settings import run_config_of
from plait.config import config_from_table
from plait.errors import ConfigError, MachineError
from plait.features.trackers import FEATURE
from plait.features.trackers.followers import check_trackers, followed, send, tracker_names
from plait.features.trackers.series import Series
from plait.rounds.events import Evaluated, RoundFinished, UpdateReceived


@pytest.mark.slow
def test_a_tracker_gets_every_round_once_and_the_report_at_the_end(run: Path, write, got, small_run) -> None:
    said: list[str] = []
    with followed(run, "mine:Good", say=said.append):
        write(small_run[:9])
        write(small_run[9:])
        (run / "report.html").write_text("page")
    assert said == []
    first, *logs, report, last = got()
    assert first == ["start", "first", "", 8]
    assert report[0] == "report"
    assert report[1] > 0
    assert report[2] == ["report.html"]
    assert last == ["finish"]
    steps = [step for _, step, _ in logs]
    assert steps == sorted(steps)
    losses = [(step, values["held_out/loss"]) for _, step, values in logs if "held_out/loss" in values]
    assert losses == [(0, 4.0), (1, 3.5), (2, 3.0)]
    of_ann = [(step, values["clients/ann/loss"]) for _, step, values in logs if "clients/ann/loss" in values]
    assert of_ann == [(0, 3.0), (1, 2.75), (2, 2.5)]
    sent = [values["bytes/uplink"] for _, _, values in logs if "bytes/uplink" in values]
    assert sent == [40, 40 + 7000 + 50, 40 + 7000 + 50 + 7000]


def test_rounds_never_decrease_for_a_tracker_of_an_asynchronous_run() -> None:
    series = Series()
    told = [
        series.of(event)
        for event in (
            RoundFinished(round=2, rule="fedavg", received=2),
            UpdateReceived(round=1, client="ann", uplink_bytes=9, train_loss=1.5, fold=3, staleness=2, weight=0.5),
            Evaluated(round=2, adapter="", loss=4.0),
            RoundFinished(round=3, rule="fedavg", received=2),
        )
    ]
    assert [each[0] for each in told if each] == [2, 3, 3, 3]
    assert [each[1]["held_out/loss"] for each in told if each and "held_out/loss" in each[1]] == [4.0]


@pytest.mark.slow
def test_a_resumed_run_goes_on_where_the_tracker_was(run: Path, write, got, small_run) -> None:
    with followed(run, "mine:Good", say=print):
        write(small_run[:16])
    before = got()
    with followed(run, "mine:Good", say=print):
        write(small_run[16:])
    after = got()[len(before) :]
    assert after[0] == ["start", "first", "remembered", 8]
    assert {step for kind, step, *_ in (line for line in before if line[0] == "log")} == {0, 1}
    assert {step for kind, step, *_ in (line for line in after if line[0] == "log")} == {2}


@pytest.mark.slow
def test_a_finished_run_can_be_sent_again_as_a_new_one(run: Path, write, got, small_run) -> None:
    write(small_run)
    send(run, "mine:Good")
    once = got()
    send(run, "mine:Good")
    assert got() == once * 2
    assert once[0] == ["start", "first", "", 8]


BAD = {
    "mine:RaisesAtStart": "failed: RuntimeError: no such project",
    "mine:RaisesInLog": "failed: ConnectionError: gone",
    "mine:Hangs": "did not finish within 20 s and was stopped",
    "mine:HangsAtTheEnd": "did not finish within 20 s and was stopped",
    "mine:Exits": "failed: ",
    "mine:IsKilled": "failed: ",
    "mine:fails_to_be_made": "failed: ValueError: nobody can have it",
    "mine:Missing": "failed: error: tracker is 'mine:Missing', but",
    "nothing:At": "failed: error: tracker is 'nothing:At', but there is no module 'nothing'",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_a_tracker_that_fails_or_hangs_is_named_and_leaves_the_others_alone(
    name: str, run: Path, write, got, small_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plait.features.trackers.followers.GRACE_S", 20.0)
    said: list[str] = []
    with followed(run, f"{name},mine:Good", say=said.append):
        write(small_run)
    assert {"report", "finish"} <= {str(line[0]) for line in got()}
    (line,) = said
    assert line.startswith(f"tracker {name} {BAD[name]}")
    assert line.endswith(f"; `plait track runs/first --to {name}` sends the run again")
    assert "\n" not in line


@pytest.mark.slow
def test_a_run_that_stops_with_an_error_stops_with_it(run: Path, write, got, small_run) -> None:
    write(small_run[:16])
    with pytest.raises(KeyboardInterrupt), followed(run, "mine:RaisesAtStart,mine:Good", say=print):
        raise KeyboardInterrupt
    assert got()[-1] == ["finish"]


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_tracker_behind(run: Path, write, got, small_run) -> None:
    write(small_run[:16])
    code = (
        "import os, sys; from pathlib import Path; from plait.features.trackers.followers import followed\n"
        "with followed(Path('runs/first'), 'mine:Good', say=print): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    for _ in range(1200):
        if (run.parent.parent / "got.jsonl").exists() and got()[-1] == ["finish"]:
            return
        subprocess.run(["sleep", "0.1"], check=True)
    raise AssertionError("the tracker did not end")


@pytest.mark.slow
def test_a_failure_of_a_replay_is_told(run: Path, write, small_run) -> None:
    write(small_run)
    with pytest.raises(
        MachineError, match="tracker mine:RaisesInLog failed: ConnectionError: gone; see 'runs/first/tr"
    ):
        send(run, "mine:RaisesInLog")


def test_names_are_checked_before_a_run(run: Path) -> None:
    assert tracker_names("none") == tracker_names("") == ()
    assert tracker_names("wandb, mine:Good,wandb") == ("wandb", "mine:Good")
    check_trackers("mine:Good")
    with pytest.raises(
        ConfigError, match=r"report-to is 'tensorbord', expected none, mlflow.*; did you mean 'tensorboard'"
    ):
        check_trackers("tensorbord")


def test_a_tracker_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        ConfigError, match="report-to is 'wandb', but the package wandb is not installed; pip install wandb"
    ):
        check_trackers("wandb")


def test_trackers_are_names_in_a_list_or_in_one_text() -> None:
    for given, name in ((["tensorboard", "wandb"], "tensorboard,wandb"), ("wandb", "wandb"), ([], "none")):
        settings = run_config_of({"report_to": given})
        assert settings.to_table().get("report-to", "none") == name
        assert settings.wanted == ((FEATURE,) if given else ())


def test_trackers_of_a_run_that_began_elsewhere_have_to_be_named() -> None:
    settings = config_from_table({"base": "tiny", "trackers": {"report-to": "my:part"}})
    assert leads_out(settings) == {"report-to": "my:part"}
