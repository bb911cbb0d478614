"""A private federation of real processes: kill -9 of the server, a client that insists, what verify recomputes."""

import json
import shutil
import signal

import pytest

from plait.cli.privacy import check_privacy
from plait.ledger.ledger import read_events
from tests.commands import said_by
from tests.deployment.simulated_secret import DRAWN

pytestmark = pytest.mark.slow

PRIVATE = ("--rounds", "2", "--keep-updates", "--dp", "client", "--dp-epsilon", "8", "--dp-clip", "0.5")


@pytest.mark.promise
def test_a_private_deployment_survives_a_kill_pays_once_and_can_be_recomputed(deployment):
    deployment.serve(*PRIVATE)
    deployment.join_all("--dp-max-epsilon", "8")
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

    assert "2 recomputed, bit for bit" in said_by("verify", deployment.run)
    assert "everybody but the server" in said_by("privacy", deployment.run)
    shutil.move(deployment.run / "noise.key", deployment.folder / "kept.key")
    assert "its noise key is not here" in said_by("verify", deployment.run)


def test_epsilon_of_two_runs_adds_up_whatever_they_and_the_state_directory_are_called(deployment, monkeypatch):
    """Until the client's operator allows more, who also decides about data of which the journal is gone.

    The server has nothing of the secret that the noise of records follows from, and what it has is recomputed.
    """
    monkeypatch.setenv(DRAWN, "yes")
    run = ("--rounds", "1", "--keep-updates", "--dp", "record", "--dp-epsilon")
    deployment.serve(*run, "4", clients=1)
    deployment.join("alice", "--dp-max-epsilon", "4")
    deployment.finish(("server", "alice"))
    (journal,) = (deployment.folder / "alice" / "state" / "journals").glob("*.jsonl")
    spent = max(json.loads(line)["epsilon"] for line in journal.read_text().splitlines())
    assert 3.7 < spent <= 4
    assert check_privacy(read_events(deployment.run / "ledger.jsonl")).by_client == {"alice": pytest.approx(spent)}
    (account,) = (deployment.folder / "alice" / "state").glob("*/alice/record-privacy")
    secret = json.loads(account.read_text())["secret"]
    kept = b"".join(path.read_bytes() for path in deployment.run.rglob("*") if path.is_file())
    assert secret.encode() not in kept
    assert bytes.fromhex(secret) not in kept
    verified = said_by("verify", deployment.run)
    assert "1 updates, each by its own client" in verified
    assert "1 recomputed, bit for bit" in verified
    assert "the most that the accounts of 1 clients state" in verified
    assert "everybody, the server too" in said_by("privacy", deployment.run)
    card = (deployment.run / "adapter" / "README.md").read_text()
    assert "everything that one record of a client changed" in card

    (deployment.folder / "server").rename(deployment.folder / "earlier")
    deployment.serve(*run, "4", "--out", "another", "--seed", "6", clients=1)
    for options, refusal in (
        ((), f"in this federation to {2 * spent:.4g}, {spent:.4g} of it in earlier runs, but max-total-epsilon"),
        (
            ("--state", "elsewhere"),
            f"knows of {len(journal.read_text().splitlines())}: --state was removed, or",
        ),
    ):
        deployment.join("alice", "--dp-max-epsilon", "4", *options)
        deployment.until(lambda: refusal in deployment.printed("alice"))  # noqa: B023
        deployment.signal("alice", signal.SIGKILL)
    policy = deployment.folder / "alice" / "policy.toml"
    policy.write_text("min-tokens = 512\nmax-total-epsilon = 8.0\n")
    deployment.join("alice", "--dp-max-epsilon", "4", "--policy", policy)
    deployment.finish(("server", "alice"))
    assert f"earlier runs on these data in this federation have spent epsilon {spent:.4g}" in deployment.printed(
        "alice"
    )
