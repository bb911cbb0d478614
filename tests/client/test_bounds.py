"""A server that floods a node or sends it too much."""

from __future__ import annotations

from client.worker import MOST_WAITING
from plait.policy import Policy
from plait.v1 import federation_pb2 as pb


def test_a_server_that_floods_a_node_with_tasks_is_left_and_tried_again(
    federation, held_app, start_node, wait_until
) -> None:
    node = start_node()
    wait_until(lambda: federation.readies, "the node to be ready")
    federation.give("1.train.0", b"slow")
    wait_until(lambda: held_app.asked, "the task to be begun")
    work = pb.Work(message_type="evaluate", group_id="1", head=bytes(1000))
    for number in range(1000):
        federation.say(pb.ToNode(work=pb.Work(**{"task_id": f"1.evaluate.{number}", **fields(work)})))
    wait_until(lambda: node.events("lost"), "the node to leave")
    assert f"server sent a task while {MOST_WAITING} others wait" in node.events("lost")[0]["text"]
    assert len(node.node._worker._waiting) <= MOST_WAITING
    federation.tasks.clear()
    held_app.go_on.set()
    wait_until(lambda: len(federation.readies) > 1, "the node to come back")
    federation.give("2.train.0", b"later")
    wait_until(lambda: "2.train.0" in federation.answers, "an honest task to be done")


def fields(work: pb.Work) -> dict[str, object]:
    return {field.name: value for field, value in work.ListFields()}


def test_a_node_does_not_fetch_a_body_that_is_larger_than_its_policy_holds(
    federation, held_app, start_node, wait_until
) -> None:
    federation.give("1.train.0", b"head", bytes(2_000_000))
    start_node(policy=Policy(max_task_mb=1.0))
    wait_until(lambda: federation.answers, "an answer")
    kind, text = federation.answers["1.train.0"]
    assert kind == pb.CONTENT_ERROR
    assert b"max-task-mb of this client's policy allows at most 1" in text
    assert not held_app.asked
    assert not federation.offsets or federation.offsets[0][0] != "download"


def test_a_second_welcome_in_one_call_ends_it(federation, start_node, wait_until) -> None:
    node = start_node()
    wait_until(lambda: federation.readies, "the node to be ready")
    federation.say(pb.ToNode(welcome=pb.Welcome(session=bytes(32), run_config_json="{}")))
    wait_until(lambda: node.events("lost"), "the node to leave")
    assert "admitted this node twice" in node.events("lost")[0]["text"]
    wait_until(lambda: len(federation.readies) > 1, "the node to come back")
