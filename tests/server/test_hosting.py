"""Runs one after the other on a channel that stays: which node is welcomed to which, and what is late."""

import grpc
import pytest

from plait.v1 import federation_pb2 as pb
from server.hosting import Terms
from tests.server.conftest import BASE, BareNode, send
from tests.tree import files_below
from tests.waiting import until


@pytest.fixture
def staying(make_channel):
    """A channel that stays, without a run yet."""
    channel = make_channel(stays=True)
    channel.end()
    return channel


def welcomed(node):
    event = node.hear()
    assert event.HasField("welcome"), event
    node.session = event.welcome.session
    return event.welcome


def ready(node, run_id):
    node.say(ready=pb.Ready(base_fingerprint=BASE, methods=["lora"], memory_bytes=1, device="cpu", run_id=run_id))


def test_a_node_is_welcomed_to_each_run_on_one_call(staying, tmp_path):
    node = BareNode(staying.address, "ada")
    first = node.enrol().welcome
    assert (first.run_id, first.stays, first.run_config_json) == (0, True, "")
    for run_id in (11, 12):
        staying.begin(Terms(run_id, {"rounds": run_id}, BASE), inbox=tmp_path / str(run_id))
        assert welcomed(node).run_id == run_id
        ready(node, run_id)
        until(lambda: staying.nodes(0))
        sent = send(staying, "ada", b"task")
        assert node.work().task_id == "1.train.0"
        node.upload("1.train.0", b"answer %d" % run_id)
        assert sent.receive(0.0)[1] == b"answer %d" % run_id
        staying.end()
        assert welcomed(node).run_id == 0


def test_what_is_sent_for_an_earlier_run_cannot_count_in_the_next(staying, tmp_path):

    node = BareNode(staying.address, "ada")
    node.enrol()
    staying.begin(Terms(11, {}, BASE), inbox=tmp_path / "11")
    old = welcomed(node).session
    ready(node, 11)
    until(lambda: staying.nodes(0))
    send(staying, "ada", b"task")
    task_id = node.work().task_id
    staying.end()
    welcomed(node)
    staying.begin(Terms(12, {}, BASE), inbox=tmp_path / "12")
    welcomed(node)
    ready(node, 11)  # late, too: it is no word about run 12
    ready(node, 12)
    until(lambda: staying.nodes(0))
    sent = send(staying, "ada", b"task")
    assert node.work().task_id == task_id
    for late in (
        lambda: node.upload(task_id, b"late", session=old),
        lambda: node.stub.Held(pb.HeldRequest(session=old, task_id=task_id, sha256=bytes(32)), timeout=180),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            late()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    node.upload(task_id, b"new")
    assert sent.receive(0.0)[1] == b"new"
    assert not [file for file in files_below(tmp_path / "11") if file.suffix == ".answer"]


def test_a_node_that_returns_is_welcomed_to_the_run_of_now(staying, tmp_path):
    node = BareNode(staying.address, "ada")
    node.enrol()
    node.leave()
    staying.begin(Terms(11, {}, BASE), inbox=tmp_path / "11")
    assert BareNode(staying.address, "ada").enrol().welcome.run_id == 11
