"""Clients with PyTorch and one in JavaScript in one run, over TLS."""

import shutil
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plait.rounds.channel import Purpose
from plait.trust.provision import provision
from tests.commands import said_by
from tests.javascript import copied

pytestmark = pytest.mark.slow


@pytest.fixture
def three(deployment, tmp_path):
    """A function that begins a run of alice and bob with PyTorch and carol in JavaScript."""
    example = copied(tmp_path / "js")

    def begin(*options: str) -> None:
        deployment.serve("--rounds", "2", *options)
        deployment.join("alice")
        deployment.join("bob")
        folder = deployment.folder / "carol"
        folder.mkdir()
        shutil.copytree(deployment.federation / "clients" / "carol", folder / "carol")
        node = shutil.which("node")
        options = ("--server", f"localhost:{deployment.port}", "--kit", folder / "carol", "--state", folder / "state")
        deployment.javascript = [node, example, *options, "--data", deployment.federation / "carol.jsonl"]
        start_javascript(deployment)

    return begin


def start_javascript(deployment) -> None:
    with deployment.output("carol").open("ab") as file:
        deployment.processes["carol"] = subprocess.Popen(
            deployment.javascript, stdout=file, stderr=subprocess.STDOUT, cwd=deployment.folder / "carol"
        )


def trained(deployment) -> set[tuple[int, str]]:
    return {(event["round"], event["client"]) for event in deployment.events("update_received")}


def test_a_run_of_two_kinds_of_clients_ends_and_is_verified(deployment, three):
    three("--wire", "1", "--keep-updates")
    deployment.finish()
    assert trained(deployment) == {(number, name) for number in (1, 2) for name in ("alice", "bob", "carol")}
    assert not deployment.events("update_refused")
    # Who cannot derive the adapter asks for it, and that is no refusal.
    asking = {event["client"] for event in deployment.events("reply_received", purpose="need-full")}
    assert asking == {"carol"}
    assert "recomputed, bit for bit" in said_by("verify", deployment.run)


def test_a_masked_run_is_refused(deployment, three):
    three("--secure-aggregation")
    deployment.until(lambda: "this client takes part in no masked run" in deployment.everything_printed())
    assert not deployment.events("update_received")
    for process in deployment.processes.values():
        process.kill()


def test_a_client_of_any_kind_that_is_killed_in_mid_round_loses_nothing(deployment, three):
    names = ("alice", "carol")
    three("--wire", "fp32", "--rounds", "2", "--keep-updates")
    for number, victim in enumerate(names, 1):
        asked = {"client": victim, "purpose": "train", "round": number}
        deployment.until(lambda asked=asked: deployment.events("broadcast", **asked))
        deployment.processes[victim].send_signal(signal.SIGKILL)
        deployment.processes[victim].wait()
        (start_javascript if victim == "carol" else lambda of, victim=victim: of.start(victim))(deployment)
    deployment.finish()
    assert trained(deployment) == {(number, name) for number in (1, 2) for name in ("alice", "bob", "carol")}
    said_by("verify", deployment.run)


def test_a_thousand_downloads_over_tls_come_whole(tmp_path, monkeypatch):
    """grpc-js against the server's options: 299 kB each, as an update of `tiny` has."""
    example = copied(tmp_path / "js")
    script = example.parents[1] / "downloads.js"
    shutil.copy(Path(__file__).with_name("downloads.js"), script)
    provision(tmp_path / "kits", ["alice"], ("localhost",), now=datetime.now(UTC))
    from plait.trust.kit import ServerKit
    from server.hosting import Terms
    from server.nodes_channel import NodesChannel
    from server.uploads import Limits

    # One node may not do this.
    monkeypatch.setattr("server.service._SAME_BODY", 10**6)
    terms = Terms(7, {}, b"")
    channel = NodesChannel("127.0.0.1:0", kit=ServerKit.load(tmp_path / "kits" / "server"), limits=Limits(1 << 20))
    with channel.begin(terms, inbox=tmp_path / "run" / "inbox"):
        port = channel.address.rpartition(":")[2]
        process = subprocess.Popen(
            [shutil.which("node"), script, f"localhost:{port}", tmp_path / "kits" / "clients" / "alice"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        while not channel.nodes(0):
            assert process.poll() is None
            channel.wait(0.2)
        (node,) = channel.nodes(0)
        channel.exchange(Purpose.TRAIN, "1").send(node, (b"head", bytes(range(256)) * 1168))
        out, _ = process.communicate(timeout=500)
    assert out.split() == ["1000", "whole,", "0", "dropped"]
