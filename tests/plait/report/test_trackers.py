"""Trackers follow a run; whatever they do, it goes on."""

import time
from collections.abc import Callable

import pytest

from plait.report.trackers import LIBRARIES, Begun, TrackedRun, following


@pytest.fixture
def got(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What the tracker `wandb`, which is none here, was called with."""
    got: list[tuple[object, ...]] = []

    def begin(run: TrackedRun) -> Begun:
        got.append(("start", run.name, run.resumed, run.config["rank"]))
        return (
            lambda values, step: got.append(("log", step, values)),
            lambda files: got.append(("finish", *(file.name for file in files))),
        )

    monkeypatch.setitem(LIBRARIES, "wandb", begin)
    return got


def values_of(logs: list[tuple[object, ...]], name: str) -> list[tuple[object, float]]:
    return [(each[1], each[2][name]) for each in logs if each[0] == "log" and name in each[2]]


def test_a_tracker_gets_every_round_once_and_the_files_at_the_end(run, write, got, small_run, capsys):
    with following(("wandb",), run, quiet=False):
        write(small_run[:9])
        write(small_run[9:])
        (run / "report.html").write_text("page")
    assert capsys.readouterr().err == ""
    first, *logs, last = got
    assert first == ("start", "first", False, 8)
    assert last == ("finish", "report.html")
    steps = [step for _, step, _ in logs]
    assert steps == sorted(steps)
    assert values_of(logs, "held_out/loss") == [(0, 4.0), (1, 3.5), (2, 3.0)]
    assert values_of(logs, "clients/ann/loss") == [(0, 3.0), (1, 2.75), (2, 2.5)]
    assert values_of(logs, "bytes/uplink") == [(0, 40), (1, 40 + 7000 + 50), (2, 40 + 7000 + 50 + 7000)]


def test_a_resumed_run_goes_on_where_the_tracker_was(run, write, got, small_run):
    for events in (small_run[:16], small_run[16:]):
        with following(("wandb",), run, quiet=False):
            write(events)
    again = [what[0] for what in got].index("start", 1)
    before, after = got[:again], got[again:]
    assert after[0] == ("start", "first", True, 8)
    assert [{each[1] for each in logs if each[0] == "log"} for logs in (before, after)] == [{0, 1}, {2}]
    assert values_of(after, "bytes/uplink") == [(2, 40 + 7000 + 50 + 7000)], "what was sent before counts"


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (failing(RuntimeError("no such project")), "failed: RuntimeError: no such project"),
        (lambda _: (failing(SystemExit("enough")), print), "failed: SystemExit: enough"),
        (lambda _: (lambda *_: time.sleep(1000), print), "did not finish within 2 s"),
    ],
    ids=["at its start", "later", "hangs"],
)
def test_a_tracker_that_fails_or_hangs_is_named_and_leaves_the_others_alone(
    bad, said, run, write, got, small_run, monkeypatch, capsys
):
    monkeypatch.setattr("plait.report.trackers.GRACE_S", 2.0)
    monkeypatch.setitem(LIBRARIES, "mlflow", bad)
    with following(("mlflow", "wandb"), run, quiet=False):
        write(small_run)
    assert got[-1][0] == "finish"
    assert f"tracker mlflow {said}" in " ".join(capsys.readouterr().err.split())


def test_a_run_that_stops_with_an_error_stops_with_it(run, write, got, small_run):
    write(small_run[:16])
    with pytest.raises(KeyboardInterrupt), following(("wandb",), run, quiet=False):
        raise KeyboardInterrupt
    assert got[-1][0] == "finish"
