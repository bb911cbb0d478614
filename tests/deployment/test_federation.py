import json
import math
import re
import urllib.request
from contextlib import closing
from pathlib import Path
from signal import SIGCONT, SIGKILL

import pytest

from plait.ledger.ledger import read_lines
from tests.deployment.conftest import sees_canary
from tests.waiting import unused_port

pytestmark = pytest.mark.slow

THREE_ROUNDS = ("--rounds", "3", "--eval-every", "3")
UPLINK = ("update_received", "update_refused", "reply_received")
# 1.2 MB a message: large enough for TLS, HTTP/2 and protobuf around it to stay below a hundredth.
EXACT = ("--bits", "fp32", "--rank", "32")


@pytest.mark.promise
def test_a_deployment_and_a_simulation_make_the_same_adapter_and_the_ledger_counts_what_crosses_the_network(
    deployment, simulated, federation, monkeypatch
):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # where the scoreboard imports its own modules from
    from scoreboard.network import Proxy

    with closing(Proxy(deployment.port)) as proxy:
        deployment.serve("--rounds", "2", *EXACT)
        deployment.join("alice", port=proxy.port)
        deployment.join("bob")
        deployment.join("carol")
        deployment.finish()

    reference = simulated("--rounds", "2", *EXACT)
    assert deployment.adapter == (reference / "adapter" / "adapter_model.safetensors").read_bytes()
    assert _losses(deployment.run) == _losses(reference)

    up = sum(event["uplink_bytes"] for kind in UPLINK for event in deployment.events(kind, client="alice"))
    down = sum(event["downlink_bytes"] for event in deployment.events("broadcast", client="alice"))
    assert up < proxy.up_bytes < 1.01 * up
    assert down < proxy.down_bytes < 1.01 * down
    assert sees_canary(federation), "it is nowhere to be found"
    assert not sees_canary(deployment.folder)

    report = re.sub(r"<[^>]+>", "", (deployment.run / "report.html").read_text())
    assert "plait server --kit plait-server --" in report
    assert "--min-clients 3" in report
    assert "--data stdlib" not in report


@pytest.mark.promise
def test_a_server_and_a_client_that_are_killed_in_a_round_go_on_to_the_same_adapter(deployment, simulated):
    metrics = f"127.0.0.1:{unused_port()}"
    deployment.serve(*THREE_ROUNDS, "--metrics", metrics)
    deployment.join_all()
    deployment.stop_in_training("bob", 2)
    deployment.stop_in_training("carol", 2)
    deployment.until(lambda: deployment.events("update_received", round=2, client="alice"))

    said = json.loads(deployment.status("--json"))
    assert (said["state"], said["round"], said["rounds"]) == ("training", 2, 3)
    assert {member["name"]: member["state"] for member in said["cohort"]} == {
        "alice": "answered", "bob": "working", "carol": "working",
    }  # fmt: skip

    with urllib.request.urlopen(f"http://{metrics}/metrics") as reply:
        page = reply.read().decode()
    assert {"plait_round 2.0", "plait_nodes_attached 3.0"} <= set(page.splitlines())
    assert "zxcanary" not in page

    # First the same command, then `plait resume`. It waits for carol, who stands still all the while.
    deployment.signal("server", SIGKILL)
    deployment.signal("bob", SIGKILL)
    deployment.start("server")
    deployment.start("bob")
    deployment.until(lambda: deployment.events("resumed") and deployment.printed("bob").count("waiting for work") == 2)
    deployment.signal("server", SIGKILL)
    assert not deployment.events("round_finished", round=2)
    deployment.resume()
    deployment.signal("carol", SIGCONT)
    deployment.finish()

    reference = simulated(*THREE_ROUNDS)
    assert deployment.adapter == (reference / "adapter" / "adapter_model.safetensors").read_bytes()
    assert not deployment.different_stories(reference)
    assert deployment.events("update_received", round=2)[0]["client"] == "alice"
    assert len(deployment.events("resumed")) == 2
    assert not list(deployment.run.rglob("*.answer"))
    assert not sees_canary(deployment.folder)


@pytest.mark.parametrize("options", [(), ("--secure-aggregation",)], ids=["open", "masked"])
def test_a_round_waits_for_killed_clients_if_others_are_half_of_its_cohort_or_less(deployment, simulated, options):
    deployment.serve(*THREE_ROUNDS, *options, "--grace-s", "1")
    deployment.join_all()
    for name in ("bob", "carol"):
        deployment.stop_in_training(name, 2)
    for name in ("bob", "carol"):
        deployment.signal(name, SIGKILL)
    deployment.until(lambda: "bob, carol: start the client again" in " ".join(deployment.printed("server").split()))
    assert not deployment.events("round_finished", round=2)
    for name in ("bob", "carol"):
        deployment.start(name)
    deployment.finish()
    assert min(event["received"] for event in deployment.events("round_finished")) >= 2
    if not options:
        reference = simulated(*THREE_ROUNDS)
        assert deployment.adapter == (reference / "adapter" / "adapter_model.safetensors").read_bytes()
        assert [event["received"] for event in deployment.events("round_finished")] == [3, 3, 3]


def test_a_client_that_stands_still_holds_no_round_beyond_its_deadline_and_may_come_back(deployment, simulated):
    # Ten times what a round takes now: of a busy machine everybody would be late.
    times = {line["event"]: line["time"] for line in read_lines(simulated("--rounds", "1") / "ledger.jsonl")}
    deadline_s = max(6, math.ceil(10 * (times["round_finished"] - times["round_started"])))
    deployment.serve(*THREE_ROUNDS, "--deadline-s", deadline_s)
    deployment.join_all()
    deployment.stop_in_training("carol", 2)
    deployment.until(lambda: deployment.events("round_finished", round=2))
    deployment.signal("carol", SIGCONT)
    deployment.finish()

    (started,), (finished,) = (deployment.events(f"round_{kind}", round=2) for kind in ("started", "finished"))
    (late,) = deployment.events("update_refused", round=2, client="carol")
    assert late["reason"] == "late"
    # The round was over while she stood still.
    assert deadline_s <= late["time"] - started["time"]
    assert late["seq"] < finished["seq"]
    assert finished["received"] == 2
    assert deployment.events("update_received", round=3, client="carol")
    # Who stood still for longer than a connection lives is not told that her work is withdrawn.
    assert re.search("round 2: training: (abandoned|the answer came too late)", deployment.printed("carol"))


def _losses(run) -> dict[str, object]:
    """What was measured on held-out data."""
    summary = json.loads((run / "summary.json").read_text())
    return {key: value for key, value in summary.items() if "held_out" in key or "gain" in key}
