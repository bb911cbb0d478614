"""Two regions of two clients each, over gRPC on loopback, in one process."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from io import StringIO
from pathlib import Path

import pytest

import plait
from plait.api.serving import Serving
from plait.apps import bind_apps
from plait.errors import ConfigError
from plait.features.trees.regional_node import RegionalNode
from plait.rounds import events
from plait.rounds.ledger import read_lines
from tests.attending import attend, shares_of
from tests.commands import Command

WEIGHTS = "adapter/adapter_model.safetensors"
REGIONS = {"north": ("ada", "bob"), "south": ("eve", "kim")}


class Region:
    """A region at work in a thread of its own."""

    def __init__(self, name: str, server: str, folder: Path, policy: Path, *, kit: str = "") -> None:
        bind_apps()
        from client.journal import Journal, Style
        from client.settings import check_settings

        settings = check_settings(
            server=server, data="region", name=name, insecure=True, state=folder / "node", policy=policy, yes=True
        )
        serving = Serving(listen="127.0.0.1:0", kit=kit, metrics="", grace_s=30.0, run_number=0)
        self.node = RegionalNode(settings, serving, folder, Journal(Style.QUIET, sys.stderr))
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        try:
            self.node.run()
        except BaseException as error:
            self.error = error

    @property
    def address(self) -> str:
        """Once it serves."""
        while not self.node.address:
            assert self.thread.is_alive(), self.error
            time.sleep(0.05)
        return self.node.address.replace("127.0.0.1", "localhost")


class KilledRegion:
    """A region in a process of its own, which can be killed and started again."""

    def __init__(self, name: str, server: str, folder: Path, policy: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address, self.ledgers = f"localhost:{port}", folder
        self._command = [
            "region", "--server", server, "--name", name, "--insecure",
            "--listen", f"127.0.0.1:{port}", "--out", str(folder), "--policy", str(policy), "--yes", "--json",
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self.process = Command(*self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill_in_round(self, number: int) -> None:
        """Kill it once one of its clients' updates of this round is there, and the other's is not."""
        while not self._received(number):
            assert self.process.poll() is None
            time.sleep(0.01)
        self.process.kill()
        self.process.wait()

    def _received(self, number: int) -> bool:
        ledger = next(self.ledgers.glob("*/ledger.jsonl"), None)
        events = read_lines(ledger) if ledger else []
        return any(event["event"] == "update_received" and event["round"] == number for event in events)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text("min-examples = 1\nmin-tokens = 1\n")
    return path


@pytest.fixture
def rows(records: list[dict[str, str]]) -> list[dict[str, str]]:
    """Of four authors."""
    return [row | {"author": "kim"} if at % 7 == 0 else row for at, row in enumerate(records)]


@pytest.fixture
def training(small: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in small.items() if key not in ("quiet", "clients")}


@pytest.fixture
def flat(rows, training, tmp_path: Path) -> bytes:
    """The adapter of the same clients without regions."""
    settings = {"partition": "natural:author", "columns": "client=author", "clients": 4, "quiet": True}
    return (plait.simulate(rows, out=tmp_path / "flat", **settings, **training).path / WEIGHTS).read_bytes()


def clients_of(regions, rows, tmp_path: Path) -> list[plait.Client]:
    shares = shares_of(rows)
    return [
        client
        for name, authors in REGIONS.items()
        for client in attend(regions[name].address, {author: shares[author] for author in authors}, tmp_path)
    ]


def test_a_region_does_not_begin_without_a_kit_to_serve_with(policy: Path, tmp_path: Path) -> None:
    region = Region("north", "localhost:1", tmp_path / "region", policy, kit=str(tmp_path / "nothing"))
    region.thread.join(30)
    assert isinstance(region.error, ConfigError)
    assert f"kit '{tmp_path / 'nothing'}' is not there" in str(region.error)


def test_a_regions_operator_is_told_of_its_clients(policy: Path, tmp_path: Path) -> None:
    region, said, heard = Region("north", "localhost:1", tmp_path / "region", policy), StringIO(), []
    region.node.node.stop()
    region.thread.join(30)
    from client.journal import Journal, Style

    told = RegionalNode(
        region.node._settings, region.node._serving, tmp_path, Journal(Style.LINES, said), on_event=heard.append
    )
    here = [
        events.ClientsDescribed(clients=(events.DescribedClient(client="ada"), events.DescribedClient(client="bob"))),
        events.ClientTurnedAway(client="eve", reason="policy", detail="no\nmasks"),
        events.UpdateRefused(round=2, client="bob", reason="late", detail="no update before the deadline"),
        events.WaitingForClients(fit=2, wanted=3),
        events.RoundStarted(round=2, cohort=("ada",)),
    ]
    for event in here:
        told._heard(event)
    assert heard == here
    assert [line.partition(" ")[2] for line in said.getvalue().splitlines()] == [
        "joined: ada, bob",
        "cannot take part: eve (policy): no masks",
        "refused: round 2, bob: no update before the deadline",
        "waiting: 2 of 3 can take part",
    ]


@pytest.mark.slow
def test_two_regions_of_two_clients_make_the_adapter_of_a_flat_simulation(
    flat: bytes, rows, training, policy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tree"
    with plait.Server(out=out, tree="2x2", insecure=True, quiet=True, **training) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        regions = {name: Region(name, address, tmp_path / name, policy) for name in REGIONS}
        clients = clients_of(regions, rows, tmp_path)
        run = server.wait(timeout_s=600)
        for client in clients:
            client.wait(timeout_s=60)
        for region in regions.values():
            region.thread.join(60)
    assert run.finished
    assert [region.error for region in regions.values()] == [None, None]
    assert (out / WEIGHTS).read_bytes() == flat
    # The server's record has two regions, and no name of a client.
    updates = [event for event in read_lines(out / "ledger.jsonl") if event["event"] == "update_received"]
    assert {(event["client"], event["clients"]) for event in updates} == {("north", 2), ("south", 2)}
    assert not any(f'"{author}"' in (out / "ledger.jsonl").read_text() for author in ("ada", "bob", "eve", "kim"))


@pytest.mark.slow
def test_a_region_that_is_killed_in_mid_round_comes_back_and_the_adapter_is_the_same(
    flat: bytes, rows, training, policy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tree"
    with plait.Server(out=out, tree="2x2", insecure=True, quiet=True, grace_s=300, **training) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        north = KilledRegion("north", address, tmp_path / "north", policy)
        regions = {"north": north, "south": Region("south", address, tmp_path / "south", policy)}
        clients = clients_of(regions, rows, tmp_path)
        north.kill_in_round(2)
        north.start()
        run = server.wait(timeout_s=600)
        for client in clients:
            client.wait(timeout_s=60)
        assert north.process.wait(timeout=60) == 0
    assert run.finished
    assert (out / WEIGHTS).read_bytes() == flat
    updates = [event for event in read_lines(out / "ledger.jsonl") if event["event"] == "update_received"]
    assert [event["clients"] for event in updates] == [2, 2, 2, 2]
