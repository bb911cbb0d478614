"""Six clients of which two take part in a round: over gRPC as in the simulation, byte by byte."""

from collections import Counter

import pytest

from plait.ledger.ledger import read_lines
from tests.deployment.conftest import founded, simulation

pytestmark = pytest.mark.slow

SIX = {"alice": 40, "bob": 36, "carol": 32, "dave": 28, "erin": 24, "frank": 20}
TWO_OF_SIX = ("--clients-per-round", "2", "--rounds", "6", "--eval-every", "3")
# Only a deployed client signs its updates: 64 bytes and their field.
SIGNATURE = 66
BYTES = {"broadcast": "downlink_bytes", "update_received": "uplink_bytes", "reply_received": "uplink_bytes"}


def _crossed(run) -> Counter:
    """Bytes of a run by event, purpose, round and client; what clients say of their machines apart."""
    crossed = Counter()
    for event in read_lines(run / "ledger.jsonl"):
        if (about := BYTES.get(event["event"])) and event.get("purpose") != "describe":
            crossed[event["event"], event.get("purpose"), event["round"], event["client"]] += event[about]
    return crossed


@pytest.fixture
def federation(tmp_path):
    return founded(tmp_path / "federation", SIX)


def test_two_of_six_clients_a_round_cost_as_many_bytes_as_in_the_simulation(deployment, federation, tmp_path):
    deployment.serve(*TWO_OF_SIX, clients=len(SIX))
    for name in SIX:
        deployment.join(name)
    deployment.finish(("server", *SIX))
    here = tmp_path / "simulated"
    here.mkdir()
    reference = simulation(federation, here, len(SIX), *TWO_OF_SIX)

    assert deployment.adapter == (reference / "adapter" / "adapter_model.safetensors").read_bytes()
    over_grpc, simulated = _crossed(deployment.run), _crossed(reference)
    signed = [key for key in over_grpc if key[0] == "update_received"]
    assert len(signed) == 12
    simulated.update(dict.fromkeys(signed, SIGNATURE))
    assert over_grpc == simulated
