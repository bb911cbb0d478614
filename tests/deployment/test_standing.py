"""A federation that stays, over TLS on loopback: a real server process that is killed, clients that nobody touches."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

import plait
from plait.address import Address
from plait.config import config_from_table
from plait.errors import ConfigError, PeerError
from plait.queue import Entry, State, read_queue
from plait.rounds.ledger import read_lines
from plait.transport.operations import AwayError, OperatorCalls
from plait.trust import StaffKit, provision
from tests.commands import Command

WEIGHTS = "adapter/adapter_model.safetensors"
COMMON = {
    "base": "tiny", "clients": 2, "rounds": 2, "local_steps": 2, "batch_size": 2, "seq_len": 32, "rank": 2,
    "learning_rate": 1e-2, "dtype": "float32", "seed": 5,
}  # fmt: skip
WRITERS, JUDGES = ("alice", "bob"), ("carol", "dave")
RUNS = {
    "ruled": ({**COMMON, "rule": "fedex", "wire": "fp32"}, WRITERS, "text"),
    "methodical": ({**COMMON, "method": "dora"}, WRITERS, "text"),
    "judging": ({**COMMON, "labels": "calm,loud"}, JUDGES, "judge"),
}
"""Another rule, another method, one classification: each with its clients and the label that they state."""


def _rows(name: str) -> list[dict[str, str]]:
    generator = random.Random(name)
    rows: list[dict[str, str]] = []
    for number in range(24):
        text = " ".join(
            generator.choices(
                ["every", "client", "trains", "on", "what", "it", "has", "and", "sends", "a", "small", "delta", "back"],
                k=40,
            )
        )
        judged = {"label": ("calm", "loud")[number % 2]} if name in JUDGES else {}
        rows.append({"text": f"{text} {name}", "author": name, **judged})
    return rows


@dataclass
class Federation:
    """One server that stays, four clients, an operator and an observer."""

    folder: Path
    kits: Path
    port: int
    server: Command | None = None

    @property
    def directory(self) -> Path:
        return self.folder / "standing"

    def calls(self, who: str = "operators/olga") -> OperatorCalls:
        return OperatorCalls(Address("localhost", self.port), StaffKit.load(self.kits / who))

    def start(self) -> None:
        with (self.folder / "output").open("ab") as output:
            self.server = Command(
                "server", "--stay", "--kit", self.kits / "server", "--listen", f"127.0.0.1:{self.port}",
                "--out", self.directory, "--give-up-s", "0.5", stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def kill(self) -> None:
        assert self.server is not None
        self.server.kill()
        self.server.wait()

    def until(self, condition: Callable[[], object], *, patience_s: float = 300.0) -> None:
        end = time.monotonic() + patience_s
        while not condition():
            assert self.server is None or self.server.poll() is None, (self.folder / "output").read_text()
            assert time.monotonic() < end, (self.folder / "output").read_text()
            time.sleep(0.02)

    def entry(self, run: str) -> Entry:
        return next(entry for entry in read_queue(self.directory) if entry.run == run)

    def events(self, run: str) -> list[str]:
        ledger = self.directory / "runs" / run / "ledger.jsonl"
        return [str(line["event"]) for line in read_lines(ledger)] if ledger.exists() else []

    def over(self, run: str) -> Entry:
        self.until(lambda: self.entry(run).is_over)
        return self.entry(run)


def _connected(federation: Federation, names: tuple[str, ...]) -> bool:
    with suppress(AwayError):
        clients = federation.calls("observers/ivo").runs()["clients"]
        return {client["name"] for client in clients} >= set(names)
    return False


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    import socket

    folder = tmp_path_factory.mktemp("standing")
    kits = folder / "kits"
    names = (*WRITERS, *JUDGES)
    provision(kits, names, ("localhost",), operators=("olga", "otto"), observers=("ivo",), now=datetime.now(UTC))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "policy.toml").write_text("min-examples = 1\nmin-tokens = 1\n")
    federation = Federation(folder, kits, port)
    federation.start()
    clients = [
        plait.Client(
            _rows(name),
            server=f"localhost:{port}",
            kit=kits / "clients" / name,
            state=folder / "state",
            policy=folder / "policy.toml",
            dtype="float32",
            labels="judge" if name in JUDGES else "text",
            quiet=True,
        )
        for name in names
    ]
    for client in clients:
        client.start()
    federation.until(lambda: _connected(federation, names))
    yield federation
    for client in clients:
        client.stop()
    federation.server.send_signal(signal.SIGTERM)
    federation.server.wait(timeout=60)


@pytest.fixture(scope="module")
def ended(federation: Federation) -> dict[str, Entry]:
    """Three runs in a row, the server killed in each of them; no client is touched."""
    olga = federation.calls()
    for name, (settings, _, label) in RUNS.items():
        table = config_from_table(settings).to_table()
        assert olga.submit(table, name=name, cohort_labels=[label]) == name
    moments = {"ruled": "round_finished", "methodical": "update_received", "judging": "clients_described"}
    for run, moment in moments.items():
        federation.until(
            lambda run=run, moment=moment: moment in federation.events(run) or federation.entry(run).is_over
        )
        federation.kill()
        federation.start()
    return {run: federation.over(run) for run in RUNS}


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_each_run_in_a_row_ends_as_its_simulation_though_the_server_was_killed(federation, ended, tmp_path, run):
    settings, names, _ = RUNS[run]
    assert (ended[run].state, ended[run].detail) == (State.FINISHED, "")
    assert "resumed" in federation.events(run)
    rows = [row for name in names for row in _rows(name)]
    plait.simulate(rows, partition="natural:author", out=tmp_path / "run", quiet=True, **settings)
    served = federation.directory / "runs" / run
    assert (served / WEIGHTS).read_bytes() == (tmp_path / "run" / WEIGHTS).read_bytes()


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
    files = ivo.fetch("ruled", tmp_path / "fetched")
    assert {"config.toml", "ledger.jsonl", "summary.json", "report.html", WEIGHTS} <= {str(file) for file in files}
    assert not {"noise.key", "server.log", "server.toml"} & {file.name for file in files}
    for file in files:
        assert (tmp_path / "fetched" / file).read_bytes() == (
            federation.directory / "runs" / "ruled" / file
        ).read_bytes()
    with pytest.raises(ConfigError, match="is there already, expected a new directory"):
        ivo.fetch("ruled", tmp_path / "fetched")


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
    before = read_queue(federation.directory)
    with pytest.raises(ConfigError, match=message) as caught:
        federation.calls().submit({**config_from_table(COMMON).to_table(), **settings}, **options)
    assert "\n" not in str(caught.value)
    assert read_queue(federation.directory) == before


@pytest.mark.slow
def test_a_run_that_no_client_can_do_fails_with_the_reason_and_the_next_one_is_served(federation, ended):
    del ended
    olga, table = federation.calls(), config_from_table(COMMON).to_table()
    # Clients with text alone cannot classify, and one that they could not have been given has no base.
    base = olga.submit({**table, "base": str(federation.folder)}, cohort_labels=["text"])
    greedy = olga.submit({**table, "method": "full"}, cohort_labels=["text"])
    after = federation.calls("operators/otto").submit({**table, "rounds": 1}, cohort_labels=["text"])
    assert federation.over(base).state is State.FAILED
    assert str(federation.folder) in federation.over(base).detail
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
    federation.until(lambda: "update_received" in federation.events(long))
    with pytest.raises(ConfigError, match=rf"run '{long}' is running, expected one that is over"):
        olga.fetch(long, federation.folder / "none")
    assert (otto.cancel(long), olga.cancel(queued)) == ("running", "queued")
    assert [federation.over(run).detail for run in (long, queued)] == ["cancelled by otto", "cancelled by olga"]
    assert federation.over(urgent).state is State.FINISHED
    assert federation.entry(queued).begun is None
    assert "run_finished" not in federation.events(long)
    with pytest.raises(ConfigError, match=rf"run '{long}' is over \(cancelled: cancelled by otto\)"):
        olga.cancel(long)
    said = json.loads(json.dumps(olga.runs()))
    assert {run["run"]: run["state"] for run in said["runs"]}[long] == "cancelled"
