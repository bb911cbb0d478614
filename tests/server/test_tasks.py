"""The states of tasks, without a network: the allowed transitions, and the messages to nodes on the way."""

import asyncio
import hashlib

import pytest

from plait.v1 import federation_pb2 as pb
from server.inbox import Inbox
from server.sessions import Fitness, Sessions
from server.tasks import TaskRegistry, TaskState

FITNESS = Fitness((), 0, "cpu")


@pytest.fixture
def inbox(tmp_path):
    return Inbox(tmp_path, node_quota_bytes=1 << 20)


@pytest.fixture
def registry(inbox):
    return TaskRegistry(inbox, Sessions(max_nodes=4))


def in_a_loop(test):
    """Sessions are made in an event loop."""

    def run(registry, inbox):
        async def body():
            test(registry, inbox)

        asyncio.run(body())

    return run


def give(registry, *, body=b"", group="1"):
    return registry.give(
        "ada",
        message_type="train",
        group=group,
        head=b"h",
        body=body,
    )


def attach(registry, *, arrival=0, ready=True):
    session = registry.sessions.attach("ada", b"", arrival=arrival)
    if ready:
        registry.make_ready(session, FITNESS)
    return session


def told(session):
    return [event.WhichOneof("event") for event in session._outbox]


def receive(inbox, task, data=b"answer"):
    incoming = inbox.receive(
        "ada", task.task_id, content=1, digest=hashlib.sha256(data).digest(), size=len(data), offset=0
    )
    incoming.write(data)
    assert incoming.finish()


@in_a_loop
def test_a_task_is_pending_while_its_node_is_away_and_delivered_once_in_each_session(registry, inbox):
    task = give(registry)
    assert task.state is TaskState.PENDING
    first = attach(registry)
    assert (task.state, task.session, told(first)) == (TaskState.DELIVERED, first, ["work"])
    registry.make_ready(first, FITNESS)
    assert told(first) == ["work"]
    registry.leave(first)
    assert (task.state, task.session) == (TaskState.PENDING, None)
    second = attach(registry, arrival=1)
    assert (task.session, told(second)) == (second, ["work"])


@in_a_loop
def test_a_node_is_told_when_its_older_connection_has_answered_the_task_that_it_works_on(registry, inbox):
    task = give(registry)
    older = attach(registry)
    newer = attach(registry, arrival=1)
    assert task.session is newer
    # The older call ends after the newer one has begun.
    registry.leave(older)
    assert (task.session, told(newer)) == (newer, ["work"])
    receive(inbox, task)
    assert registry.answer(task, older)
    assert (task.state, told(newer)) == (TaskState.ANSWERED, ["work", "withdraw"])
    assert newer._outbox[-1].withdraw == pb.Withdraw(task_id=task.task_id, reason="answered")


@in_a_loop
def test_an_answer_counts_once_and_stays_and_the_node_that_sent_it_is_told_nothing(registry, inbox):
    task = give(registry)
    session = attach(registry)
    receive(inbox, task)
    assert registry.answer(task, session)
    assert registry.answer(task, session), "it is there, though it came twice"
    assert told(session) == ["work"]
    assert inbox.has("ada", task.task_id)


@in_a_loop
def test_a_withdrawn_task_is_told_to_its_node_never_sent_and_its_answer_thrown_away(registry, inbox):
    task = give(registry)
    # It may be at work on it since before it reconnected.
    session = attach(registry, ready=False)
    registry.withdraw([task], "deadline")
    assert told(session) == ["withdraw"]
    receive(inbox, task)
    assert not registry.answer(task, session)
    assert not inbox.has("ada", task.task_id)
    assert registry.find("ada", task.task_id)[0] is TaskState.WITHDRAWN
    registry.make_ready(session, FITNESS)
    assert told(session) == ["withdraw"]


@in_a_loop
def test_the_open_tasks_of_a_node_that_is_expelled_fail_and_let_go_of_their_body(registry, inbox):
    tasks = [give(registry, body=b"b" * 100_000) for _ in range(3)]
    session = attach(registry)
    receive(inbox, tasks[0])
    registry.answer(tasks[0], session)
    assert registry.expel(session, pb.ToNode(refused=pb.Refused()), "key revoked") == 2
    assert [task.state.name for task in tasks] == ["ANSWERED", "FAILED", "FAILED"]
    assert tasks[1].reason == "key revoked"
    assert registry.held_bytes == 0
    assert not registry.fail(tasks[1], "again")


def test_an_answer_from_before_a_restart_answers_the_task_of_the_same_name(registry, inbox):
    before = give(registry)
    receive(inbox, before)

    restarted = TaskRegistry(inbox, Sessions(max_nodes=4))

    assert restarted.find("ada", before.task_id) == (None, None)
    task = give(restarted)
    assert (task.task_id, task.state) == (before.task_id, TaskState.ANSWERED)
    assert restarted.settled([task]) == [task]


@pytest.mark.parametrize("settle", ["fail", "withdraw", "pulled"])
def test_a_node_that_asks_about_a_settled_task_is_told_it_is_late_or_answered(registry, inbox, settle):
    task = give(registry)
    if settle == "fail":
        registry.fail(task, "node ada left")
        registry.pulled(task, keep=False)
    elif settle == "withdraw":
        registry.withdraw([task], "deadline")
    else:
        receive(inbox, task)
        task.move(TaskState.ANSWERED)
        registry.pulled(task, keep=True)

    expected = TaskState.ANSWERED if settle == "pulled" else TaskState.WITHDRAWN
    assert registry.find("ada", task.task_id) == (expected, None)
    give(registry, group="2")
    assert registry.find("ada", task.task_id) == (TaskState.WITHDRAWN, None)
