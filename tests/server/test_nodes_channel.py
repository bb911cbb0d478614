import errno
import hashlib
import time

import grpc
import pytest

from plait.errors import ConfigError, DiskFullError, PeerError, RunInterrupted
from plait.rounds.channel import Identity, Liveness, NoAnswer, Purpose, StopRequest
from plait.transport.protocol import node_number
from plait.v1 import federation_pb2 as pb
from tests.server.conftest import BareNode, attending, replies, send
from tests.tree import files_below
from tests.waiting import until


def answers(directory) -> list[str]:
    return sorted(file.name for file in files_below(directory / "inbox") if file.suffix == ".answer")


def test_a_node_hears_why_the_run_has_no_use_for_it(channel):
    with attending(channel, "alice") as (alice,):
        channel.turn_away(node_number("alice"), "rank", "a rank\nof 4, expected 8")
        channel.turn_away(node_number("bob"), "rank", "has never been here")
        assert alice.hear().unfit == pb.Unfit(reason="rank", detail="a rank of 4, expected 8")


def test_a_body_that_tasks_share_is_held_once_and_dropped_with_the_last_task(channel):
    body = bytes(range(256)) * 8192
    with attending(channel, "alice", "bob") as nodes:
        sent = [send(channel, node.name, node.name.encode(), body) for node in nodes]
        tasks = channel._tasks
        digest = hashlib.sha256(body).digest()
        assert tasks.held_bytes == len(body)
        assert tasks.body_for("alice", digest) is body
        assert tasks.body_for("bob", digest) is body
        for node in nodes:
            work = node.work()
            assert node.task(work) == node.name.encode() + body
            assert node.body(work, offset=1_000_000) == body[1_000_000:]
            node.upload(work.task_id, b"done")

        replies(sent)

        assert tasks.held_bytes == 0


def test_a_head_that_is_too_long_for_one_message_travels_as_a_body(channel):
    head = b"h" * 100_000
    with attending(channel, "alice") as (alice,):
        send(channel, "alice", head, b"body" * 10_000)

        assert alice.task(alice.work()) == head + b"body" * 10_000


def test_a_node_that_failed_is_told_in_words(given):
    alice, sent, task_id = given
    alice.upload(task_id, b"no\nmemory", content=pb.CONTENT_ERROR)

    assert replies([sent]) == [NoAnswer("node alice failed: no memory")]


def test_only_proven_and_ready_nodes_are_there(channel):
    node = BareNode(channel.address, "alice")
    welcome = node.enrol().welcome
    assert welcome.node_id == node_number("alice")
    assert channel.nodes(0) == []
    node.say(ready=pb.Ready(base_fingerprint=b"b" * 32))
    until(lambda: channel.nodes(0) == [node_number("alice")])
    node.leave()
    until(lambda: channel.nodes(0) == [])
    assert channel.identity(node_number("alice")) == Identity("alice", b"")
    with pytest.raises(PeerError, match="node 5 has left"):
        channel.identity(5)


def test_a_task_to_a_node_that_was_never_here_is_not_sent_and_the_others_go_on(channel):
    with attending(channel, "alice") as (alice,):
        exchange = channel.exchange(Purpose.TRAIN, "1")
        for node in (12345, node_number("alice")):
            exchange.send(node, (b"task", b""))
        alice.upload(alice.work().task_id, b"done")
        assert exchange.receive(None) == (12345, NoAnswer("node 12345 could not be sent its task"))
        assert exchange.receive(None) == (node_number("alice"), b"done")


def test_tasks_of_a_node_that_stays_away_fail_after_the_grace(make_channel):
    channel = make_channel(grace_s=0.2)
    with attending(channel, "alice") as (alice,):
        sent = send(channel, "alice", b"task")
        alice.work()

    assert replies([sent]) == [NoAnswer("node alice failed: away for more than 0.2 s")]


def test_a_node_is_heard_of_by_its_words_and_by_bytes_and_comes_back_another(channel):
    def heard_at():
        # Of several readings the greatest: a busy machine may pause between the clock and the question.
        return max(time.monotonic() - channel.liveness(node).idle_s for _ in range(5))

    def is_heard(say):
        before = heard_at()
        until(lambda: time.monotonic() > before + 0.2)
        assert heard_at() < before + 0.1
        say()
        until(lambda: heard_at() > before + 0.1)

    with attending(channel, "alice") as (alice,):
        (node,) = channel.nodes(0)
        first = channel.liveness(node).since
        is_heard(lambda: alice.say(progress=pb.Progress(task_id="1", doing="training")))
        is_heard(lambda: send(channel, "alice", b"task"))
    until(lambda: channel.liveness(node) == Liveness())
    with attending(channel, "alice"):
        assert channel.liveness(node).since > first
    assert channel.liveness(12345) == Liveness()


def test_a_disk_that_cannot_take_an_answer_stops_the_run_and_fails_no_task(channel, given, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    alice, _, task_id = given
    monkeypatch.setattr("server.inbox.os.fsync", full)
    with pytest.raises(grpc.RpcError, match="server cannot write the answer"):
        alice.upload(task_id, b"done")
    with pytest.raises(DiskFullError, match=r"No space left on device; the disk at .* has [\d,]+ bytes free"):
        channel.wait(180)
    # The task waits for the server to come back.
    monkeypatch.undo()
    assert alice.upload(task_id, b"done").kept


def test_a_withdrawn_task_is_told_to_its_node_and_its_answer_is_late(given):
    alice, sent, task_id = given
    sent.withdraw(node_number("alice"), "deadline")

    assert alice.hear().withdraw == pb.Withdraw(task_id=task_id, reason="deadline")
    assert alice.held(task_id, b"x").late
    assert not alice.upload(task_id, b"x").kept
    assert sent.receive(None) is None


def test_a_restarted_server_finds_the_answer_to_the_same_task(make_channel):
    channel = make_channel()
    with attending(channel, "alice", "bob") as (alice, bob):
        sent = [send(channel, node.name, b"task", group="5") for node in (alice, bob)]
        for node in (alice, bob):
            node.upload(node.work().task_id, b"trained by " + node.name.encode())
        # One was pulled before the server went down, the other was not.
        assert replies(sent[:1])[0] == b"trained by alice"
    channel.stop()
    channel = make_channel()
    with attending(channel, "alice", "bob") as (alice, bob):
        sent = [send(channel, node.name, b"task", group="5") for node in (alice, bob)]

        found = replies(sent)

        assert found == [b"trained by alice", b"trained by bob"]
        assert alice.held("5.train.0", b"trained by alice").complete


def test_an_answer_that_a_restarted_server_has_not_asked_for_is_neither_late_nor_taken(make_channel):
    channel = make_channel()
    with attending(channel, "alice") as (alice,):
        assert alice.held("5.train.0", b"mine").unknown
        with pytest.raises(Exception, match="has not been assigned") as caught:
            alice.upload("5.train.0", b"mine")
        assert caught.value.code().name == "FAILED_PRECONDITION"
        send(channel, "alice", b"task", group="5")
        assert alice.upload(alice.work().task_id, b"mine").kept


def test_answers_of_a_group_are_forgotten_when_the_next_starts(channel, tmp_path):
    with attending(channel, "alice") as (alice,):
        for group in ("1", "2"):
            sent = send(channel, "alice", b"task", group=group)
            alice.upload(alice.work().task_id, b"answer")
            replies([sent])

            until(lambda group=group: answers(tmp_path) == [f"{group}.train.0.answer"])
        assert alice.held("1.train.0", b"answer").late


def test_an_answer_that_does_not_come_in_time_is_not_waited_for(channel):
    with attending(channel, "alice", "bob") as (alice, _):
        exchange = channel.exchange(Purpose.DESCRIBE, "1")
        for node in ("alice", "bob"):
            exchange.send(node_number(node), (b"task", b""))
        alice.upload(alice.work().task_id, b"answer")

        assert exchange.receive(180.0) == (node_number("alice"), b"answer")
        assert exchange.receive(0.1) is None


@pytest.mark.parametrize(
    ("ended_by", "withdrawn"),
    [(None, 1), (PeerError("x"), 1), (RunInterrupted("x"), 0), (KeyboardInterrupt(), 0), (DiskFullError("full"), 0)],
)
def test_a_server_that_will_go_on_lets_its_nodes_work_on(given, ended_by, withdrawn):
    alice, sent, task_id = given
    sent.__exit__(type(ended_by), ended_by, None)
    assert alice.held(task_id, b"x").late == bool(withdrawn)
    if withdrawn:
        assert alice.hear().withdraw == pb.Withdraw(task_id=task_id, reason="enough")


def test_a_run_that_is_to_stop_does_not_wait(channel, tmp_path):
    stop = StopRequest(asked=True)
    channel.begin(channel._hosting.run.terms, inbox=tmp_path / "inbox", stop=stop)
    with pytest.raises(RunInterrupted):
        channel.nodes(1)


@pytest.mark.parametrize("finished", [False, True])
def test_a_server_that_stops_says_whether_nodes_may_go(make_channel, finished):
    channel = make_channel()
    with attending(channel, "alice") as (alice,):
        channel.stop(finished=finished)

        assert alice.hear().drain == pb.Drain(finished=finished)
        assert alice.heard_end()


def test_without_a_kit_only_loopback_can_be_served(tmp_path, make_channel):
    for listen in ("0.0.0.0:0", "192.0.2.1:9440", "example.org:9440", "[::]:0"):
        with pytest.raises(ConfigError, match="expected a loopback address"):
            make_channel(listen=listen)
