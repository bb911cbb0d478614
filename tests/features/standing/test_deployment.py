"""A standing federation, over TLS on loopback: a real server process that is killed, clients that are not touched."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator

import pytest

from plait.config import config_from_table
from plait.errors import ConfigError, PeerError
from plait.features.standing.run_queue import Entry, State, read_queue
from plait.rounds.ledger import read_lines
from tests.features.standing.federation import COMMON, OTHER_BASE, WEIGHTS, Asked, Standing, three_runs

RUNS = ("ruled", "rebased", "judging")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    federation = Standing.of_four(tmp_path_factory.mktemp("standing"))
    try:
        federation.begin()
        yield federation
    finally:
        federation.end()


@pytest.fixture(scope="module")
def asked(federation: Standing) -> dict[str, Asked]:
    return three_runs(federation.folder)


@pytest.fixture(scope="module")
def ended(federation: Standing, asked: dict[str, Asked]) -> dict[str, Entry]:
    """Three runs in a row, the server killed in each of them; no client is touched."""
    for name, run in asked.items():
        federation.submit(name, run)
    moments = {"ruled": "round_finished", "rebased": "update_received", "judging": "clients_described"}
    for run, moment in moments.items():
        federation.until(
            lambda run=run, moment=moment: moment in federation.kinds(run) or federation.entry(run).is_over
        )
        federation.kill()
        federation.open()
    return {run: federation.over(run) for run in asked}


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_each_run_in_a_row_ends_as_its_simulation_though_the_server_was_killed(federation, asked, ended, tmp_path, run):
    assert (ended[run].state, ended[run].detail) == (State.FINISHED, "")
    assert "resumed" in federation.kinds(run)
    assert federation.weights(run) == federation.simulated(asked[run], tmp_path / "run")


@pytest.mark.slow
def test_a_copy_of_a_stopped_directory_goes_on_elsewhere_and_no_round_is_trained_twice(federation, asked, ended):
    del ended
    before = federation.trainings()
    run = federation.caught_in_mid_round("copied", asked["ruled"])
    federation.signal("server", signal.SIGTERM)
    assert federation.processes["server"].wait(60) == 130
    original = federation.directory
    federation.place = "elsewhere"
    shutil.copytree(original, federation.directory)
    federation.open()
    federation.signal("alice", signal.SIGCONT)
    assert federation.over(run).state is State.FINISHED
    assert federation.weights(run) == federation.weights("ruled")
    assert federation.kinds(run).count("resumed") == 1
    assert "round_missed" not in federation.kinds(run)
    assert set((federation.trainings() - before).values()) == {1}


@pytest.mark.slow
def test_a_second_server_of_one_directory_ends_in_one_line(federation, ended):
    del ended
    processes = federation.processes
    served = processes["server"]
    federation.open()
    second, processes["server"] = processes["server"], served
    assert second.wait(60) == 2
    assert "federation.jsonl' is being written by another process" in federation.printed("server")


@pytest.mark.slow
def test_runs_were_served_in_their_order_and_the_journal_says_who_submitted_them(federation, ended):
    begun = [ended[run].begun for run in RUNS]
    assert begun == sorted(begun)
    assert all(entry.ended <= after for entry, after in zip(ended.values(), begun[1:], strict=False))
    lines = [line for line in read_lines(federation.directory / "federation.jsonl") if line["run"] in RUNS]
    kinds = [(line["event"], line.get("by")) for line in lines if line["run"] == "ruled"]
    assert kinds == [("run_submitted", "olga"), ("run_begun", None), ("run_ended", None)]


@pytest.mark.slow
def test_an_observer_fetches_the_run_and_can_neither_submit_nor_cancel(federation, ended, tmp_path):
    del ended
    ivo, table = federation.calls("observers/ivo"), config_from_table(COMMON).to_table()
    before = read_queue(federation.directory)
    for act in (lambda: ivo.submit(table), lambda: ivo.cancel("ruled")):
        with pytest.raises(PeerError, match=r"observer 'ivo' may not call (Submit|Cancel)"):
            act()
    assert read_queue(federation.directory) == before
    files = ivo.fetch("ruled", tmp_path / "fetched", max_gb=1)
    assert {"config.toml", "ledger.jsonl", "summary.json", "report.html", WEIGHTS} <= {str(file) for file in files}
    assert not {"noise.key", "server.log", "server.toml"} & {file.name for file in files}
    for file in files:
        assert (tmp_path / "fetched" / file).read_bytes() == (
            federation.directory / "runs" / "ruled" / file
        ).read_bytes()
    with pytest.raises(ConfigError, match="is there already, expected a new directory"):
        ivo.fetch("ruled", tmp_path / "fetched", max_gb=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"ranc": 4}, {}, "submitted settings: unknown key 'ranc'; did you mean 'rank'"),
        ({"clients": 9}, {}, "run asks for 9 clients, but 4 are provisioned"),
        ({}, {"cohort_labels": ["gpu"]}, "no client states label 'gpu', expected some of those that they do: judge"),
        ({}, {"cohort_labels": ["judge", "text"]}, "run asks for 2 clients with labels judge, text, but 0 state all"),
        ({}, {"name": "ruled"}, "run 'ruled' exists already, olga submitted it"),
        ({}, {"name": "../x"}, r"run name is '../x', expected letters"),
        ({"publish": "/tmp/x"}, {}, "publish is given, expected none in a submitted run"),
        ({"init-adapter": "/etc"}, {}, "init-adapter is given, expected none in a submitted run"),
        ({"rule": "my_rules:Mine"}, {}, "my_rules"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_in_one_line_and_not_queued(federation, ended, settings, options, message):
    del ended
    federation.until(federation.everybody_is_here)
    before = read_queue(federation.directory)
    with pytest.raises(ConfigError, match=message) as caught:
        federation.calls().submit({**config_from_table(COMMON).to_table(), **settings}, **options)
    assert "\n" not in str(caught.value)
    assert read_queue(federation.directory) == before


@pytest.mark.slow
def test_a_run_that_no_client_can_do_fails_with_the_reason_and_the_next_one_is_served(federation, ended):
    del ended
    olga, table = federation.calls(), config_from_table(COMMON).to_table()
    nobodys = federation.folder / "nobodys"
    shutil.copytree(federation.folder / OTHER_BASE, nobodys)
    unheld = olga.submit({**table, "base": str(nobodys)}, cohort_labels=["text"])
    none = olga.submit({**table, "base": str(federation.folder)}, cohort_labels=["text"])
    greedy = olga.submit({**table, "method": "full"}, cohort_labels=["text"])
    after = federation.calls("operators/otto").submit({**table, "rounds": 1}, cohort_labels=["text"])
    assert federation.over(unheld).state is State.FAILED
    assert "base of the run is 'nobodys', a directory on the server" in federation.over(unheld).detail
    assert federation.over(none).state is State.FAILED
    assert f"base '{federation.folder}' has no config.json" in federation.over(none).detail
    assert federation.over(greedy).state is State.FAILED
    assert "methods of this client's policy" in federation.over(greedy).detail
    assert (federation.over(after).state, federation.entry(after).by) == (State.FINISHED, "otto")


@pytest.mark.slow
def test_a_cancelled_run_ends_and_its_clients_work_for_the_next(federation, ended):
    del ended
    olga, otto = federation.calls(), federation.calls("operators/otto")
    table = config_from_table({**COMMON, "rounds": 2000}).to_table()
    long, queued = (olga.submit(table, cohort_labels=["text"]) for _ in range(2))
    urgent = otto.submit({**table, "rounds": 1}, cohort_labels=["text"], priority=5)
    federation.until(lambda: "update_received" in federation.kinds(long))
    with pytest.raises(ConfigError, match=rf"run '{long}' is running, expected one that is over"):
        olga.fetch(long, federation.folder / "none", max_gb=1)
    assert (otto.cancel(long), olga.cancel(queued)) == ("running", "queued")
    assert [federation.over(run).detail for run in (long, queued)] == ["cancelled by otto", "cancelled by olga"]
    assert federation.over(urgent).state is State.FINISHED
    assert federation.entry(queued).begun is None
    assert "run_finished" not in federation.kinds(long)
    with pytest.raises(ConfigError, match=rf"run '{long}' is over \(cancelled: cancelled by otto\)"):
        olga.cancel(long)
    said = json.loads(json.dumps(olga.runs()))
    assert {run["run"]: run["state"] for run in said["runs"]}[long] == "cancelled"
