"""A private federation of real processes: kill -9 of the server, a client that insists, what verify recomputes."""

import shutil
import signal
import subprocess
import sys

import pytest

from plait.rounds.audit import check_privacy
from plait.rounds.ledger import read_events

pytestmark = pytest.mark.slow

PRIVATE = ("--rounds", "2", "--keep-updates", "--dp", "client", "--dp-epsilon", "8", "--dp-clip", "0.5")


def test_a_private_deployment_survives_a_kill_pays_once_and_can_be_recomputed(deployment):
    deployment.serve(*PRIVATE)
    for name in ("alice", "bob", "carol"):
        deployment.join(name, "--dp-max-epsilon", "8")
    deployment.until(lambda: deployment.events("noise_intended", round=1))
    deployment.signal("server", signal.SIGKILL)
    deployment.resume()
    deployment.finish()

    assert [event["round"] for event in deployment.events("noise_intended")] == [1, 2]
    spent = check_privacy(read_events(deployment.run / "ledger.jsonl"))
    assert (spent.charges, spent.epsilon) == (2, pytest.approx(8.0, rel=1e-6))
    assert not deployment.events("evaluated")
    assert "promises client-level differential privacy" in deployment.printed("alice")
    for update in deployment.events("update_received"):
        assert "train_loss" not in update
        assert "signature" not in update
    log = (deployment.run / "server.log").read_text()
    assert "train_loss" not in log
    card = (deployment.run / "adapter" / "README.md").read_text()
    assert "## Differential privacy" in card
    assert "epsilon 8 of 8 at delta 1e-05" in card

    assert "2 recomputed, bit for bit" in _plait("verify", deployment.run)
    assert "everybody but the server" in _plait("privacy", deployment.run)
    shutil.move(deployment.run / "noise.key", deployment.folder / "kept.key")
    assert "its noise key is not here" in _plait("verify", deployment.run)


def test_a_client_that_insists_on_less_epsilon_does_not_take_part(deployment):
    deployment.serve(*PRIVATE)
    deployment.join("alice", "--dp-max-epsilon", "1")
    refusal = "the run may spend epsilon 8 at delta 1e-05, but dp-max-epsilon of this client's policy"
    deployment.until(lambda: refusal in deployment.printed("alice"))
    assert not deployment.events("round_started")
    for name in ("alice", "server"):
        deployment.signal(name, signal.SIGKILL)


def _plait(*arguments: object) -> str:
    command = (sys.executable, "-m", "plait.cli.main", *map(str, arguments))
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout
