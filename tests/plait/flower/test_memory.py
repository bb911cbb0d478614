import pytest
from flwr.app import ConfigRecord, Context, RecordDict

from plait.errors import ConfigError
from plait.flower.memory import ContextMemory


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


def test_an_account_of_private_records_is_not_kept_where_it_ends_with_the_node(context):
    with pytest.raises(ConfigError, match="dp of the run is 'record' and this node's state is Flower's"):
        ContextMemory(context()).save("record-privacy", b"{}")
