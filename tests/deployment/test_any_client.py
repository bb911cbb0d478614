"""Clients with PyTorch and one in JavaScript in one run, over TLS."""

import shutil
import signal
import subprocess

import pytest

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
    three("--bits", "1", "--keep-updates")
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
    three("--bits", "fp32", "--rounds", "2", "--keep-updates")
    for number, victim in enumerate(names, 1):
        asked = {"client": victim, "purpose": "train", "round": number}
        deployment.until(lambda asked=asked: deployment.events("broadcast", **asked))
        deployment.processes[victim].send_signal(signal.SIGKILL)
        deployment.processes[victim].wait()
        (start_javascript if victim == "carol" else lambda of, victim=victim: of.start(victim))(deployment)
    deployment.finish()
    assert trained(deployment) == {(number, name) for number in (1, 2) for name in ("alice", "bob", "carol")}
    said_by("verify", deployment.run)
