"""A standing federation, over TLS on loopback: a real server process that is killed, clients that are not touched."""

import shutil
import signal
from collections.abc import Iterator

import pytest

from plait.config import config_from_table
from plait.errors import ConfigError
from server.standing import Entry, State
from tests.server.standing_federation import COMMON, OTHER_BASE, WEIGHTS, Standing, three_runs

RUNS = ("ruled", "rebased", "ranked")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    federation = Standing.of_two(tmp_path_factory.mktemp("standing"))
    try:
        federation.begin()
        yield federation
    finally:
        federation.end()


@pytest.fixture(scope="module")
def asked(federation: Standing) -> dict[str, dict[str, object]]:
    return three_runs(federation.folder)


@pytest.fixture(scope="module")
def ended(federation: Standing, asked: dict[str, dict[str, object]]) -> dict[str, Entry]:
    """Three runs in a row, the server killed in each of them; no client is touched."""
    for name, run in asked.items():
        federation.submit(name, run)
    moments = {"ruled": "round_finished", "rebased": "update_received", "ranked": "clients_described"}
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
    assert federation.processes["server"].wait(180) == 130
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
def test_a_run_is_fetched_whole_and_without_the_servers_secrets(federation, ended, tmp_path):
    begun = [ended[run].begun for run in RUNS]
    assert begun == sorted(begun)
    files = federation.calls().fetch("ruled", tmp_path / "fetched", max_gb=1)
    assert {"config.toml", "ledger.jsonl", "summary.json", "report.html", WEIGHTS} <= {str(file) for file in files}
    assert not {"noise.key", "server.log", "server.toml"} & {file.name for file in files}
    for file in files:
        assert (tmp_path / "fetched" / file).read_bytes() == (
            federation.directory / "runs" / "ruled" / file
        ).read_bytes()


@pytest.mark.slow
def test_a_run_for_more_clients_than_there_are_is_refused_in_one_line(federation, ended):
    del ended
    with pytest.raises(ConfigError, match="run asks for 9 clients, but 2 are provisioned") as caught:
        federation.calls().submit({**config_from_table(COMMON).to_table(), "clients": 9})
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_that_no_client_can_do_fails_with_the_reason_and_the_next_one_is_served(federation, ended):
    del ended
    olga, table = federation.calls(), config_from_table(COMMON).to_table()
    nobodys = federation.folder / "nobodys"
    shutil.copytree(federation.folder / OTHER_BASE, nobodys)
    unheld = olga.submit({**table, "base": str(nobodys)})
    none = olga.submit({**table, "base": str(federation.folder)})
    greedy = olga.submit({**table, "method": "full"})
    after = olga.submit({**table, "rounds": 1})
    assert federation.over(unheld).state is State.FAILED
    assert "base of the run is 'nobodys', a directory on the server" in federation.over(unheld).detail
    assert federation.over(none).state is State.FAILED
    assert f"base '{federation.folder}' has no config.json" in federation.over(none).detail
    assert federation.over(greedy).state is State.FAILED
    assert "methods of this client's policy" in federation.over(greedy).detail
    assert federation.over(after).state is State.FINISHED


@pytest.mark.slow
def test_a_cancelled_run_ends_and_its_clients_work_for_the_next(federation, ended):
    del ended
    olga = federation.calls()
    table = config_from_table({**COMMON, "rounds": 2000}).to_table()
    long, queued = (olga.submit(table) for _ in range(2))
    urgent = olga.submit({**table, "rounds": 1}, priority=5)
    federation.until(lambda: "update_received" in federation.kinds(long))
    with pytest.raises(ConfigError, match=rf"run '{long}' is running; its files"):
        olga.fetch(long, federation.folder / "none", max_gb=1)
    assert (olga.cancel(long), olga.cancel(queued)) == ("running", "queued")
    assert {federation.over(run).state for run in (long, queued)} == {State.CANCELLED}
    assert federation.over(urgent).state is State.FINISHED
    assert federation.entry(queued).begun is None
    assert "run_finished" not in federation.kinds(long)
    assert {run["run"]: run["state"] for run in olga.runs()}[long] == "cancelled"
