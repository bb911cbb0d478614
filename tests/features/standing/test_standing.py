from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from plait.address import Address
from plait.api.serving import Serving
from plait.cli.app import app
from plait.config import config_from_table
from plait.errors import ConfigError, MachineError
from plait.features.standing.acts import Outcome, RunEnded, RunSubmitted
from plait.features.standing.calls import OperatorCalls
from plait.features.standing.limits import Quota, RunLimits
from plait.features.standing.room import disk_bytes, most_disk_bytes
from plait.features.standing.run_queue import JOURNAL_FILE, RunQueue, State, read_queue
from plait.features.standing.standing import Standing
from plait.rounds.events import RoundFinished, RoundStarted, UpdateReceived
from plait.rounds.ledger import Ledger
from plait.rounds.stop import StopRequest
from plait.settle import settle
from plait.training.bases import locate_base
from plait.transport import MAX_MESSAGE_BYTES

RUN = {"base": "tiny", "clients": 2, "rounds": 3, "rank": 8}


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    serving = Serving(listen="127.0.0.1:0", kit="", metrics="", grace_s=1.0, run_number=0)
    made = Standing(tmp_path / "federation", serving, limits=RunLimits(run_quota_bytes=10_000_000), quiet=True)
    yield made
    made.channel.stop()
    made._queue.close()


@pytest.mark.slow
def test_a_run_that_cannot_fit_is_refused_in_one_line_with_the_estimate(standing: Standing, tmp_path: Path) -> None:
    def submit(**changes: object) -> str:
        return standing.submit("olga", json.dumps({**RUN, **changes}), priority=0, cohort_labels=(), name="")

    with pytest.raises(
        ConfigError, match=r"run needs about [\d.]+ GB at the server, expected at most the 0.01 GB"
    ) as caught:
        submit(rounds=400, wire="fp32")
    assert "a run may have (--run-quota-gb)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read_queue(tmp_path / "federation") == []
    assert submit(rank=1, wire="1") == "run-1"


@pytest.mark.parametrize(
    ("key", "value"), [("publish", "http://127.0.0.1:9"), ("callbacks", "evil:part"), ("init_adapter", "/etc")]
)
def test_a_run_in_a_journal_of_somebody_else_s_names_nothing_either(
    standing: Standing, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.setattr("server.served_run.open_served_run", lambda *_, **__: pytest.fail("it was served"))
    table = config_from_table({**RUN, key: value}, where="test").to_table()
    standing._queue.submit(table, by="olga", number=7, priority=0, cohort_labels=(), name="theirs")
    entry = standing._queue.begin_next(wait_s=0.0)
    assert entry is not None
    standing._serve(entry)
    ended = standing.run("theirs")
    assert (ended["state"], f"{key.replace('_', '-')} is given, expected none" in str(ended["detail"])) == (
        "failed",
        True,
    )


def many_runs(directory: Path, count: int) -> list[str]:
    """A journal of so many finished runs; their names."""
    names = [f"study-{number:05d}" for number in range(count)]
    (directory / "runs").mkdir(parents=True)
    journal = Ledger(directory / JOURNAL_FILE)
    for number, name in enumerate(names):
        # Values as long as a submission may have them, in another script: six bytes of JSON a character.
        config = {**RUN, "base": "ф" * 2000} if number % 7 == 0 else RUN
        journal.note(RunSubmitted(run=name, by="olga", number=number, config=config))
        journal.note(RunEnded(run=name, outcome=Outcome.FAILED, detail="ф" * 3000 if number % 5 == 0 else ""))
    journal.close()
    return names


@pytest.mark.slow
def test_all_of_5000_runs_can_be_listed_in_small_messages(tmp_path: Path) -> None:
    names = many_runs(tmp_path / "federation", 5000)
    serving = Serving(listen="127.0.0.1:0", kit="", metrics="", grace_s=1.0, run_number=0)
    standing = Standing(tmp_path / "federation", serving, quiet=True)
    standing.channel.start()
    try:
        calls = OperatorCalls(Address.parse(standing.channel.address), None)
        found: list[str] = []
        before = ""
        while not found or before:
            page: dict[str, Any] = calls.runs(before=before)
            assert len(json.dumps(page)) < MAX_MESSAGE_BYTES / 2
            found[:0] = [run["run"] for run in page["runs"]]
            before = page.get("before", "")
        assert found == names
        assert calls.run("study-00007")["run"] == "study-00007"
        for ask in (lambda: calls.run("study-9"), lambda: calls.runs(before="study-9")):
            with pytest.raises(ConfigError, match="run 'study-9' does not exist"):
                ask()
        listed = CliRunner().invoke(app, ["runs", "--server", standing.channel.address])
        assert (listed.exit_code, names[-1] in listed.output) == (0, True)
        assert listed.output.splitlines()[-1].startswith("older runs: plait runs --before study-0")
    finally:
        standing.channel.stop()
        standing._queue.close()


def test_settings_that_are_longer_than_any_are_refused_and_not_written(standing: Standing, tmp_path: Path) -> None:
    long = json.dumps({**RUN, "base": "x" * 16384})
    with pytest.raises(ConfigError, match="settings have 16434 characters, expected at most 16384"):
        standing.submit("olga", long, priority=0, cohort_labels=(), name="")
    assert (tmp_path / "federation" / JOURNAL_FILE).read_bytes() == b""


def test_a_port_that_is_taken_is_no_fault_of_the_run_that_was_being_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = RunQueue(tmp_path / "federation")
    queue.submit(config_from_table(RUN).to_table(), by="olga", number=7, name="going")
    queue.begin_next(wait_s=1)
    queue.close()
    monkeypatch.setattr("server.served_run.open_served_run", lambda *_, **__: object())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        serving = Serving(listen=listen, kit="", metrics="", grace_s=1.0, run_number=0)
        with pytest.raises(MachineError, match=listen):
            Standing(tmp_path / "federation", serving, quiet=True).serve()
    assert [entry.state for entry in read_queue(tmp_path / "federation")] == [State.RUNNING]


def test_the_bound_that_costs_nothing_is_above_the_estimate() -> None:
    base = locate_base("tiny").directory
    for changes in ({}, {"method": "full"}, {"wire": "fp32", "rounds": 50}, {"rule": "fedex", "rank": 64}):
        settled = settle(config_from_table({**RUN, **changes}))
        assert disk_bytes(settled, base) < most_disk_bytes(settled, base), changes


def test_a_run_over_its_quota_ends_at_the_end_of_a_round_and_says_why(tmp_path: Path) -> None:
    stop = StopRequest()
    quota = Quota(tmp_path, 99, stop)
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "a").write_bytes(bytes(99))
    quota.hear(RoundStarted.model_construct(round=1))
    assert (stop.asked, quota.reason) == (False, "")
    (tmp_path / "b").write_bytes(b"x")
    quota.hear(UpdateReceived.model_construct(round=1))
    assert not stop.asked
    quota.hear(RoundFinished.model_construct(round=1))
    assert stop.asked
    assert (
        quota.reason
        == "run has 1e-07 GB at the server, expected at most 9.9e-08 GB (--run-quota-gb); it ended in round 1"
    )
