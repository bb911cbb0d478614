"""Trackers follow a run; whatever they do, it goes on."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from plait.api.received import leads_out
from plait.api.settings import run_config_of
from plait.config import config_from_table
from plait.errors import ConfigError
from plait.features.trackers.following import check
from plait.features.trackers.series import Series
from plait.rounds.events import Evaluated, RoundFinished, UpdateReceived
from plait.settings import Trackers

MINE = """
    import json, os, time

    class Good:
        def _note(self, *what):
            with open(os.environ["OUT"], "a") as file:
                file.write(json.dumps(what) + "\\n")
        def start(self, run):
            self._note("start", run.name, run.resumed, run.config["rank"])
        def log(self, values, step):
            self._note("log", step, values)
        def finish(self, files):
            self._note("finish", [file.name for file in files])

    class Quiet(Good):
        def _note(self, *what):
            pass

    class RaisesAtStart(Quiet):
        def start(self, run):
            raise RuntimeError("no such project")

    class RaisesInLog(Quiet):
        def log(self, values, step):
            raise ConnectionError("gone")

    class Exits(Quiet):
        def log(self, values, step):
            raise SystemExit("enough")

    class Hangs(Quiet):
        def log(self, values, step):
            time.sleep(1000)

    def fails_to_be_made():
        raise ValueError("nobody can have it")
"""


@pytest.fixture
def got(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[object]]]:
    """What `mine:Good` was called with; the module is in the working directory."""
    (tmp_path / "mine.py").write_text(textwrap.dedent(MINE))
    monkeypatch.setenv("OUT", str(tmp_path / "got.jsonl"))
    return lambda: [json.loads(line) for line in (tmp_path / "got.jsonl").read_text().splitlines()]


def test_a_tracker_gets_every_round_once_and_the_files_at_the_end(run, write, followed, got, small_run, capsys) -> None:
    with followed("mine:Good"):
        write(small_run[:9])
        write(small_run[9:])
        (run / "report.html").write_text("page")
    assert capsys.readouterr().err == ""
    first, *logs, last = got()
    assert first == ["start", "first", False, 8]
    assert last == ["finish", ["report.html"]]
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


def test_a_resumed_run_goes_on_where_the_tracker_was(write, followed, got, small_run) -> None:
    with followed("mine:Good"):
        write(small_run[:16])
    before = got()
    with followed("mine:Good"):
        write(small_run[16:])
    after = got()[len(before) :]
    assert after[0] == ["start", "first", True, 8]
    assert {step for kind, step, *_ in (line for line in before if line[0] == "log")} == {0, 1}
    assert {step for kind, step, *_ in (line for line in after if line[0] == "log")} == {2}
    sent = [
        values["bytes/uplink"]
        for _, _, values in (line for line in after if line[0] == "log")
        if "bytes/uplink" in values
    ]
    assert sent == [40 + 7000 + 50 + 7000], "what was sent before counts"


BAD = {
    "mine:RaisesAtStart": "failed: RuntimeError: no such project",
    "mine:RaisesInLog": "failed: ConnectionError: gone",
    "mine:Exits": "failed: SystemExit: enough",
    "mine:Hangs": "did not finish within 2 s",
    "mine:fails_to_be_made": "failed: ValueError: nobody can have it",
    "mine:Missing": "failed: ConfigError: tracker is 'mine:Missing', but",
    "nothing:At": "failed: ConfigError: tracker is 'nothing:At', but there is no module 'nothing'",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_a_tracker_that_fails_or_hangs_is_named_and_leaves_the_others_alone(
    name: str, write, followed, got, small_run, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("plait.features.trackers.following.GRACE_S", 2.0)
    with followed(f"{name},mine:Good"):
        write(small_run)
    assert got()[-1][0] == "finish"
    assert f"tracker {name} {BAD[name]}" in " ".join(capsys.readouterr().err.split())


def test_a_run_that_stops_with_an_error_stops_with_it(write, followed, got, small_run) -> None:
    write(small_run[:16])
    with pytest.raises(KeyboardInterrupt), followed("mine:RaisesAtStart,mine:Good"):
        raise KeyboardInterrupt
    assert got()[-1][0] == "finish"


def named(text: str) -> None:
    check(config_from_table({"report-to": text}))


def test_names_are_checked_before_a_run() -> None:
    for text in ("none", "", "mine:Good", "mine:Good,tensorboard"):
        named(text)
    with pytest.raises(
        ConfigError, match=r"report-to is 'tensorbord', expected none, mlflow.*; did you mean 'tensorboard'"
    ):
        named("tensorbord")


def test_a_tracker_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="report-to is 'wandb', but the package is not installed; pip install wandb"):
        named("wandb")


def test_trackers_are_names_in_a_list_or_in_one_text() -> None:
    for given, name in ((["tensorboard", "wandb"], "tensorboard,wandb"), ("wandb", "wandb"), ([], "none")):
        settings = run_config_of({"report_to": given})
        assert settings.to_table().get("report-to", "none") == name
        assert settings.asks(Trackers) == bool(given)


def test_trackers_of_a_run_that_began_elsewhere_have_to_be_named() -> None:
    settings = config_from_table({"base": "tiny", "trackers": {"report-to": "my:part"}})
    assert leads_out(settings) == {"report-to": "my:part"}


@pytest.mark.slow
def test_a_run_with_trackers_that_work_and_fail_is_the_run_without(
    plait, original: Path, got, small: tuple[str, ...]
) -> None:
    weights = "adapter/adapter_model.safetensors"
    ran = plait(
        "simulate", "--data", original / "my.jsonl", "--partition", "natural:author", "--clients", 3, *small,
        "--learning-rate", 1e-2, "--dtype", "float32", "--out", "run", "--report-to", "mine:Good,mine:RaisesInLog",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert Path("run", weights).read_bytes() == (original / "run" / weights).read_bytes()
    assert "tracker mine:RaisesInLog failed: ConnectionError: gone" in " ".join(ran.err.split())
    assert "tracker mine:Good" not in ran.err
    _, *logs, last = got()
    assert [step for _, step, values in logs if "held_out/loss" in values] == [0, 1, 2]
    assert {"report.html", "summary.json"} <= set(last[1])
    assert plait("verify", "run").code == 0
