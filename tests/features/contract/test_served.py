"""A contract over gRPC: clients keep to it though the server does not, and a server whose kit has it does too."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

import plait
from plait.address import Address
from plait.api.serving import Serving
from plait.config import config_from_table
from plait.errors import ConfigError, Interrupted, PolicyError
from plait.features.contract.enforcing import FOLDER
from plait.features.contract.signatures import SUFFIX, Signature
from plait.features.contract.terms import read_contract
from plait.features.standing.calls import OperatorCalls
from plait.features.standing.limits import RunLimits
from plait.features.standing.standing import Standing
from plait.rounds.events import RunFinished
from plait.rounds.ledger import read_events
from plait.trust.kit import ClientKit, StaffKit
from plait.trust.provision import provision
from tests.attending import attend, shares_of
from tests.features.conftest import NAMES, SMALL, rows

TEXT = """
members = ["ada", "bob", "eve"]
needed = 2
until = 2099-01-01T00:00:00Z
bases = ["tiny"]
methods = ["lora"]
rules = ["fedavg"]
release-if = "gain > -9"
submitters = ["olga"]
recipients = ["ivo"]
"""
WITHIN = {**{key: value for key, value in SMALL.items() if key not in ("quiet", "dtype")},
          "clients": 3, "rounds": 1, "local_steps": 1, "release_if": "gain > -1"}  # fmt: skip


@pytest.fixture
def kits(tmp_path: Path) -> Path:
    place = tmp_path / "kits"
    provision(place, NAMES, ("localhost",), operators=("olga", "otto"), observers=("ivo", "ida"), now=datetime.now(UTC))
    for name in NAMES:
        add_contract(place, place / "clients" / name)
    return place


def add_contract(kits: Path, kit: Path) -> None:
    """Give a kit the contract, which two members have signed."""
    folder = kit / FOLDER
    folder.mkdir(mode=0o700)
    (folder / "contract.toml").write_text(TEXT)
    for name in ("ada", "bob"):
        signature = Signature.of(read_contract(folder / "contract.toml"), ClientKit.load(kits / "clients" / name))
        (folder / f"{name}{SUFFIX}").write_bytes(signature.to_bytes())


@contextmanager
def served(kits: Path, folder: Path) -> Iterator[Standing]:
    serving = Serving("127.0.0.1:0", str(kits / "server"), "", 30.0, 0)
    standing, serves = Standing(folder, serving, limits=RunLimits(give_up_s=3.0), quiet=True), threading.Event()

    def serve() -> None:
        with suppress(Interrupted):
            standing.serve(on_start=lambda _: serves.set())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert serves.wait(60)
    yield standing
    standing.stop()
    thread.join()


def operator(kits: Path, standing: Standing, place: str) -> OperatorCalls:
    address = standing.channel.address.replace("127.0.0.1", "localhost")
    return OperatorCalls(Address.parse(address, what="server"), StaffKit.load(kits / place))


@pytest.mark.slow
def test_a_server_without_the_contract_finds_no_client_for_a_run_outside_it(kits: Path, tmp_path: Path) -> None:
    with served(kits, tmp_path / "federation") as standing:
        clients = attend(standing.channel.address, shares_of(rows()), tmp_path, kits=kits)
        otto = operator(kits, standing, "operators/otto")
        for name, change in {
            "method": {"method": "lora_xs"}, "rule": {"rule": "median"}, "gate": {"release_if": ""},
            "clause": {"release_if": "gain > -10"}, "within": {},
        }.items():  # fmt: skip
            otto.submit(config_from_table({**WITHIN, **change}).to_table(), name=name)
        entry = until_over(standing, "within")
        assert entry["state"] == "finished", entry["detail"]
        for name, clause in {
            "method": "methods",
            "rule": "rules",
            "gate": "release-if",
            "clause": "release-if",
        }.items():
            entry = standing.run(name)
            assert entry["state"] == "failed"
            assert f"outside the contract, clause {clause}: " in str(entry["detail"])
            ledger = tmp_path / f"federation/runs/{name}/ledger.jsonl"
            assert not ledger.exists() or not any(event.event == "update_received" for event in read_events(ledger))
        for client in clients:
            client.stop()
    within = read_events(tmp_path / "federation/runs/within/ledger.jsonl")
    assert any(isinstance(event, RunFinished) for event in within)


def until_over(standing: Standing, run: str) -> dict[str, object]:
    waiting = threading.Event()
    while (entry := standing.run(run))["state"] in ("queued", "running"):
        waiting.wait(0.2)
    return dict(entry)


@pytest.mark.slow
def test_a_server_with_the_contract_takes_runs_within_it_from_those_who_may_submit(kits: Path, tmp_path: Path) -> None:
    add_contract(kits, kits / "server")
    within = config_from_table(WITHIN).to_table()
    with served(kits, tmp_path / "federation") as standing:
        olga, otto = (operator(kits, standing, f"operators/{name}") for name in ("olga", "otto"))
        ivo, ida = (operator(kits, standing, f"observers/{name}") for name in ("ivo", "ida"))
        with pytest.raises(ConfigError, match="clause submitters: 'otto' asks, expected one of olga"):
            otto.submit(within, name="by-otto")
        with pytest.raises(ConfigError, match="clause methods: method is 'lora_xs', expected one of lora"):
            olga.submit(config_from_table({**WITHIN, "method": "lora_xs"}).to_table(), name="outside")
        assert olga.submit(within, name="within") == "within"
        with pytest.raises(ConfigError, match="clause recipients: 'ida' asks, expected one of ivo"):
            ida.fetch("within", tmp_path / "ida", max_gb=1.0)
        with pytest.raises(ConfigError, match="expected one that is over"):
            ivo.fetch("within", tmp_path / "ivo", max_gb=1.0)
        assert [each["run"] for each in json.loads(standing.page_json())["runs"]] == ["within"]
    with pytest.raises(PolicyError, match=r"clause bases: base is 'smollm2-135m'"):
        plait.Server(out=tmp_path / "run", kit=kits / "server", quiet=True, clients=3).start()
