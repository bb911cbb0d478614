"""A masked federation of real processes with real kits: its sums, its dropouts, and kill -9 in every stage."""

from datetime import UTC, datetime

import pytest

from plait.ledger.ledger import read_lines
from plait.rounds.run_directory import RunDirectory
from plait.secagg.sums import Summed, sum_file
from plait.trust.provision import provision
from tests.commands import said_by
from tests.deployment import conftest as deployed
from tests.tree import files_below

pytestmark = pytest.mark.slow

MASKED = ("--rounds", "2", "--eval-every", "2", "--secure-aggregation", "--keep-updates")
WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.mark.promise
def test_a_masked_deployment_makes_the_adapter_of_its_simulation_bit_for_bit(deployment, simulated):
    deployment.serve(*MASKED)
    deployment.join_all("--require-secure-aggregation")
    deployment.finish()

    reference = simulated(*MASKED)
    assert deployment.adapter == (reference / WEIGHTS).read_bytes()
    for number in (1, 2):
        assert summed(deployment.run, number) == summed(reference, number)
    assert "the run is masked (secure aggregation)" in deployment.printed("alice")
    assert not deployment.events("update_refused")
    for described in deployment.events("clients_described"):
        assert not any(client.get("train_examples") for client in described["clients"])
    assert "recomputed, bit for bit" in said_by("verify", deployment.run)
    card = (deployment.run / "adapter" / "README.md").read_text()
    assert "## Secure aggregation" in card
    assert "certificate" in card
    assert "protects no one" not in card
    assert "Simulated" not in said_by("privacy", deployment.run)


def test_a_client_that_is_killed_at_any_stage_is_a_dropout_of_it_and_is_in_the_next_round(deployment):
    """Four clients, of whom one kills itself in each round at another stage, before it answers or before it sends."""
    points = [
        "client/keys/1/after",
        "client/shares/2/before",
        "client/training/3/after",
        "client/signatures/4/before",
        "client/unmasking/5/after",
    ]
    provision(deployment.federation, ["dave"], [], now=datetime.now(UTC))
    deployment.serve(*MASKED[2:], "--rounds", len(points), "--grace-s", "1", clients=4)
    deployment.join_all("--require-secure-aggregation")
    deployment.join("dave", data=deployment.federation / "alice.jsonl", doomed=points[0])
    for number, following in enumerate([*points[1:], ""], start=1):
        deployment.until_killed("dave")
        stage = points[number - 1].split("/")[1]
        deployment.until(lambda: deployment.events("update_refused", client="dave", stage=stage))  # noqa: B023
        deployment.start("dave", doomed=following)
    deployment.finish()

    lost = [(event["round"], event["stage"]) for event in deployment.events("update_refused", client="dave")]
    assert [each for each in lost if each[1] != "delivery"] == [
        (1, "keys"), (2, "shares"), (3, "training"), (4, "signatures"), (5, "unmasking"),
    ]  # fmt: skip
    assert not [event for event in deployment.events("update_refused") if event["client"] != "dave"]
    sums = {event["round"]: event["clients"] for event in deployment.events("sum_unmasked", purpose="train")}
    # From the signatures on the client's numbers are in the sum.
    assert sums == {1: 3, 2: 3, 3: 3, 4: 4, 5: 4}
    assert "5 recomputed, bit for bit" in said_by("verify", deployment.run)


def test_a_server_that_is_killed_at_every_stage_goes_on_to_the_bits_of_an_undisturbed_run(deployment, simulated):
    points = [
        "server/keys/1/2",
        "server/shares/1/2",
        "server/training/1/2",
        "server/sealed/1/stored",
        "server/signatures/2/1",
        "server/signed/2/stored",
        "server/unmasking/2/2",
        "server/sum/2/stored",
    ]
    deployment.serve(*MASKED, doomed=points[0])
    deployment.join_all()
    for following in [*points[1:], ""]:
        deployment.until_killed("server")
        deployment.resume(doomed=following)
    deployment.finish()

    reference = simulated(*MASKED)
    assert deployment.adapter == (reference / WEIGHTS).read_bytes()
    assert not deployment.different_stories(reference, again=["update_received"])
    assert "2 recomputed, bit for bit" in said_by("verify", deployment.run)


def test_clients_add_their_noise_over_the_network_and_the_sum_has_it_though_one_is_killed(deployment):
    """One of four kills itself while it trains, before it has answered; the sum of three has the promised noise."""
    noise = ("--dp", "client", "--dp-epsilon", "50", "--dp-clip", "0.5", "--rounds", "2", "--secure-aggregation")
    provision(deployment.federation, ["dave"], [], now=datetime.now(UTC))
    deployment.serve(*noise, "--keep-updates", "--grace-s", "1", clients=4)
    deployment.join_all("--require-secure-aggregation", "--dp-max-epsilon", "50")
    deployment.join("dave", data=deployment.federation / "alice.jsonl", doomed="client/training/2/before")
    deployment.until_killed("dave")
    deployment.until(lambda: deployment.events("update_refused", client="dave", stage="training"))
    deployment.finish()

    (promised,) = deployment.events("privacy_started")
    assert (promised["guaranteed"], promised["observer"]) == (3, "everybody, the server too")
    assert [event["round"] for event in deployment.events("noise_intended")] == [1, 2]
    assert [event["clients"] for event in deployment.events("sum_unmasked")] == [4, 3]
    assert not deployment.events("evaluated")
    assert not (deployment.run / "noise.key").exists()
    assert "adds its share of the noise under its masks" in deployment.printed("alice")
    verified = said_by("verify", deployment.run)
    assert "2 recomputed, bit for bit" in verified
    assert "2 draws of noise for 2 rounds" in verified


def test_a_submitted_run_is_masked_too(deployment):
    federation, folder = deployment.federation, deployment.folder
    provision(federation, [], [], operators=["olga"], now=datetime.now(UTC))
    deployment.stay()
    deployment.join_all("--require-secure-aggregation")
    (folder / "run.toml").write_text(
        'base = "tiny"\nrounds = 1\nclients = 3\nlocal-steps = 8\nbatch-size = 2\nseq-len = 32\ndtype = "float32"\n'
        "learning-rate = 0.01\nthreads = 1\nsecure-aggregation = true\n"
    )
    asked = ("--server", f"localhost:{deployment.port}", "--kit", federation / "operators" / "olga")
    deployment.until(lambda: deployment.printed("server").count("serving on"))
    submitted = deployed.plait("submit", folder / "run.toml", *asked, folder=folder, output=folder / "submitted")
    assert submitted.wait() == 0, (folder / "submitted").read_text() + deployment.everything_printed()

    def ledgers():
        return [file for file in files_below(folder / "server" / "runs") if file.name == "ledger.jsonl"]

    deployment.until(lambda: any('"run_finished"' in each.read_text() for each in ledgers()))
    (ledger,) = ledgers()
    sums = [event for event in read_lines(ledger) if event["event"] == "sum_unmasked"]
    assert [(event["purpose"], event["round"], event["clients"]) for event in sums] == [
        ("evaluate", 0, 3), ("train", 1, 3), ("evaluate", 1, 3),
    ]  # fmt: skip
    assert all(event["certified"] for event in sums)


def summed(run, number):
    stored = Summed.from_bytes(RunDirectory.find(run).load_update(number, sum_file("train")))
    return stored.clients, stored.numbers.tobytes(), stored.unit
