"""What a run's record proves, and what it takes to forge it."""

import pytest

from plait.errors import PeerError
from plait.ledger.events import parse_event
from plait.ledger.ledger import read_events
from plait.rounds.audit import check_signatures
from plait.trust.keys import NodeKey
from tests.plait.conftest import recorded
from tests.plait.rounds.test_resume import CASES, begin
from tests.plait.rounds.test_validate import HONEST, gauge_attacker


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_kept_its_updates_is_computed_again_bit_for_bit(federate, fake_model, case):
    federation = begin(federate, fake_model, case, keep_updates=True)
    federation.run()
    assert federation.recomputed() == federation.plan.rounds


@pytest.mark.slow
def test_so_is_one_in_which_some_were_refused(federate, fake_model):
    models = {name: fake_model(1, 3) for name in HONEST} | {"mallory": gauge_attacker(fake_model)}
    federation = federate(models, rounds=3, keep_updates=True)
    federation.run()
    assert len(federation.of_kind("update_refused")) == 3
    assert federation.recomputed() == 3


def rewritten(federation, change):
    """The same ledger with other events, under a chain that is whole."""
    lines = federation.events
    path = federation.path / "ledger.jsonl"
    path.unlink()
    recorded(path, [parse_event(change(line["event"], line)) for line in lines])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "update of 'bob' in round 1 is missing, expected it in"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0"), "digest of the payload is"),
        (
            lambda path: path.write_bytes((path.parent / "alice.envelope").read_bytes()),
            "client of the update is 'alice'",
        ),
        (
            lambda path: path.write_bytes((path.parent.parent / "round-000002" / path.name).read_bytes()),
            "round of the update is 2, expected 1",
        ),
    ],
)
def test_an_update_that_is_not_the_one_that_was_received_is_found(federate, spoil, says):
    federation = federate(keep_updates=True)
    federation.run()
    spoil(federation.path / "spool/round-000001/bob.envelope")
    with pytest.raises(PeerError, match=says):
        federation.recomputed()


@pytest.fixture
def signed(federate):
    federation = federate(keep_updates=True)
    federation.sign(federation.keys)
    federation.run()
    return federation


def test_signed_updates_are_checked_and_simulated_ones_are_not_signed(signed, federate):
    assert check_signatures(read_events(signed.path / "ledger.jsonl")) == 6
    assert signed.recomputed() == 2
    simulated = federate()
    simulated.run()
    assert check_signatures(read_events(simulated.path / "ledger.jsonl")) == 0


def other_key(kind, fields):
    if kind == "clients_described":
        cards = [{**card, "public_key": NodeKey.generate().public_bytes.hex()} for card in fields["clients"]]
        return {**fields, "clients": cards}
    return fields


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_key, "signature on the update of '.*' in round 1 is not its key's"),
        (
            lambda kind, fields: fields | ({"signed": None, "signature": None} if kind == "update_received" else {}),
            "is not its key's",
        ),
        (
            lambda kind, fields: {**fields, "examples": 1000} if kind == "update_received" else fields,
            "examples, expected '.*', 1, 1000",
        ),
        (
            lambda kind, fields: {**fields, "round": 2} if kind == "update_received" else fields,
            "is signed for .*, round 1, .* expected .*, 2,",
        ),
    ],
)
def test_a_record_that_says_what_no_client_signed_is_found(signed, change, says):
    rewritten(signed, change)
    with pytest.raises(PeerError, match=says):
        check_signatures(read_events(signed.path / "ledger.jsonl"))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("round_finished", {"adapter": "ab" * 32}, r"round 1 recomputed gives adapter .*, expected abababab"),
        ("update_received", {"signature": "00" * 64}, "covers something other than the ledger records"),
    ],
)
def test_a_record_that_is_not_what_the_updates_give_is_found(signed, kind, change, message):
    rewritten(signed, lambda found, fields: {**fields, **change} if found == kind else fields)
    with pytest.raises(PeerError, match=message):
        signed.recomputed()
