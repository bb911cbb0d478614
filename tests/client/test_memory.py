import pytest
from flwr.app import ConfigRecord, Context, RecordDict

from client import memory
from client.memory import ContextMemory, SimulatedMemory


@pytest.fixture
def context():
    def make():
        return Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})

    return make


def test_what_was_saved_is_there_for_the_next_message(context):
    kept = context()
    for data in (b"one", b"", bytes(range(256)) * 100):
        ContextMemory(kept).save("adapter", data)
        assert ContextMemory(kept).load("adapter") == data


def test_keys_and_clients_are_kept_apart(context):
    alice, bob = ContextMemory(context()), ContextMemory(context())
    alice.save("adapter", b"a")
    alice.save("spec", b"s")
    bob.save("adapter", b"b")
    assert (alice.load("adapter"), alice.load("spec")) == (b"a", b"s")
    assert (bob.load("adapter"), bob.load("spec")) == (b"b", None)


def test_what_somebody_else_keeps_in_the_context_is_not_ours(context):
    kept = context()
    kept.state["plait.adapter"] = ConfigRecord({"bytes": b"theirs"})
    kept.state["other"] = ConfigRecord({"a": 1})
    assert ContextMemory(kept).load("adapter") is None
    ContextMemory(kept).save("spec", b"ours")
    assert set(kept.state) == {"plait.adapter", "other", "plait.spec"}


def test_clients_of_one_process_that_keep_the_same_bytes_share_one_copy(context):
    contexts = [context() for _ in range(3)]
    for kept in contexts:
        ContextMemory(kept).save("adapter", bytes([7]) * 1000)
    copies = {id(kept.state["plait.adapter"]["bytes"].data) for kept in contexts}
    assert len(copies) == 1


def test_sharing_keeps_few_bytes_alive(context):
    for number in range(50):
        ContextMemory(context()).save("adapter", b"%d" % number)
    assert len(memory._shared) <= memory._SHARED_KEPT


def test_equal_hashes_are_no_proof_of_equal_bytes(context, monkeypatch):
    monkeypatch.setattr(memory, "hash", lambda data: 0, raising=False)
    alice, bob = ContextMemory(context()), ContextMemory(context())
    alice.save("adapter", b"a")
    bob.save("adapter", b"b")
    assert (alice.load("adapter"), bob.load("adapter")) == (b"a", b"b")


def test_what_nobody_could_send_again_survives_the_process(context, tmp_path):
    first = SimulatedMemory(context(), tmp_path / "clients" / "ada")
    first.save("residual", b"owed")
    first.save("adapter", b"sent again when lost")
    after_a_kill = SimulatedMemory(context(), tmp_path / "clients" / "ada")
    assert after_a_kill.load("residual") == b"owed"
    assert after_a_kill.load("adapter") is None
    assert SimulatedMemory(context(), tmp_path / "clients" / "bob").load("residual") is None
