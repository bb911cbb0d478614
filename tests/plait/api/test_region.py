"""Two regions of two clients each, over gRPC on loopback, in one process."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

import plait
from plait.api.apps import add_apps_to_path
from plait.api.region import RegionalNode
from plait.api.serving import Serving
from plait.rounds.ledger import read_lines

WEIGHTS = "adapter/adapter_model.safetensors"
REGIONS = {"north": ("ada", "bob"), "south": ("eve", "kim")}


class Region:
    """A region at work in a thread of its own."""

    def __init__(self, name: str, server: str, folder: Path, policy: Path) -> None:
        add_apps_to_path()
        from client.journal import Journal, Style
        from client.settings import check_settings

        settings = check_settings(
            server=server, data="region", name=name, insecure=True, state=folder / "node", policy=policy, yes=True
        )
        serving = Serving(listen="127.0.0.1:0", kit="", metrics="", grace_s=30.0, run_number=0)
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


@pytest.mark.slow
def test_two_regions_of_two_clients_make_the_adapter_of_a_flat_simulation(small, records, tmp_path) -> None:
    rows = [row | {"author": "kim"} if at % 7 == 0 else row for at, row in enumerate(records)]
    training = {key: value for key, value in small.items() if key not in ("quiet", "clients")}
    flat = plait.simulate(
        rows,
        partition="natural:author",
        columns="client=author",
        clients=4,
        out=tmp_path / "flat",
        quiet=True,
        **training,
    )
    policy = tmp_path / "policy.toml"
    policy.write_text("min-examples = 1\nmin-tokens = 1\n")
    out = tmp_path / "tree"
    with plait.Server(out=out, tree="2x2", insecure=True, quiet=True, **training) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        regions = {name: Region(name, address, tmp_path / name, policy) for name in REGIONS}
        clients = [
            plait.Client(
                [row for row in rows if row["author"] == author],
                server=regions[name].address, name=author, insecure=True, state=tmp_path / "state", policy=policy,
                dtype="float32", quiet=True,
            )
            for name, authors in REGIONS.items()
            for author in authors
        ]  # fmt: skip
        for client in clients:
            client.start()
        run = server.wait(timeout_s=600)
        for waiting in (*clients, *(region.thread for region in regions.values())):
            waiting.wait(timeout_s=60) if isinstance(waiting, plait.Client) else waiting.join(60)
    assert run.finished
    assert [region.error for region in regions.values()] == [None, None]
    assert (out / WEIGHTS).read_bytes() == (flat.path / WEIGHTS).read_bytes()
    # The server's record has two regions, and no name of a client.
    updates = [event for event in read_lines(out / "ledger.jsonl") if event["event"] == "update_received"]
    assert {(event["client"], event["clients"]) for event in updates} == {("north", 2), ("south", 2)}
    assert not any(f'"{author}"' in (out / "ledger.jsonl").read_text() for author in ("ada", "bob", "eve", "kim"))
