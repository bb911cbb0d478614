import errno
import hashlib
import socket
import subprocess
import sys
import time

import grpc
import pytest
from flwr.app import ConfigRecord, RecordDict

from plait.errors import ConfigError, DiskFullError, MachineError, PeerError
from plait.flower.blob import from_message, to_content
from plait.transport import channel_credentials, node_number
from plait.trust.kit import ClientKit, ServerKit
from plait.v1 import federation_pb2 as pb


def answers(directory) -> list[str]:
    return sorted(file.name for file in (directory / "inbox").rglob("*.answer"))


def test_a_task_reaches_its_node_and_the_answer_comes_back(grid, attending, send, replies):
    with attending(grid, "alice") as (alice,):
        message_id = send(grid, "alice", b"head", group="4")
        work = alice.work()
        assert (work.task_id, work.message_type, work.group_id) == ("4.train.0", "train", "4")
        assert alice.task(work) == b"head"
        assert alice.upload(work.task_id, b"answer").kept

        (reply,) = replies(grid, [message_id])

        assert from_message(reply) == b"answer"
        assert reply.metadata.reply_to_message_id == message_id
        assert reply.metadata.src_node_id == node_number("alice")
        assert reply.metadata.group_id == "4"
        assert reply.metadata.run_id == 7
        assert not list(grid.pull_messages([message_id]))


def test_a_node_hears_why_the_run_has_no_use_for_it(grid, attending):
    with attending(grid, "alice") as (alice,):
        grid.turn_away(node_number("alice"), "rank", "a rank\nof 4, expected 8")
        grid.turn_away(node_number("bob"), "rank", "has never been here")
        assert alice.hear().unfit == pb.Unfit(reason="rank", detail="a rank of 4, expected 8")


def test_a_body_that_tasks_share_is_held_once_and_dropped_with_the_last_task(grid, attending, send, replies):
    body = bytes(range(256)) * 8192
    with attending(grid, "alice", "bob") as nodes:
        ids = [send(grid, node.name, node.name.encode(), body) for node in nodes]
        tasks = grid._tasks
        digest = hashlib.sha256(body).digest()
        assert tasks.held_bytes == len(body)
        assert tasks.body_for("alice", digest) is body
        assert tasks.body_for("bob", digest) is body
        for node in nodes:
            work = node.work()
            assert node.task(work) == node.name.encode() + body
            assert node.body(work, offset=1_000_000) == body[1_000_000:]
            node.upload(work.task_id, b"done")

        replies(grid, ids)

        assert tasks.held_bytes == 0


def test_a_head_that_is_too_long_for_one_message_travels_as_a_body(grid, attending, send):
    head = b"h" * 100_000
    with attending(grid, "alice") as (alice,):
        send(grid, "alice", head, b"body" * 10_000)

        assert alice.task(alice.work()) == head + b"body" * 10_000


def test_records_of_another_app_are_not_sent(grid, attending):
    with attending(grid, "alice"):
        message = grid.create_message(RecordDict({"c": ConfigRecord({"a": 1})}), "train", node_number("alice"), "1")
        with pytest.raises(ValueError, match="records of another app, expected plait's bytes"):
            grid.push_messages([message])


def test_an_error_of_the_app_comes_back_as_an_error(grid, attending, send, replies):
    with attending(grid, "alice") as (alice,):
        message_id = send(grid, "alice", b"1")
        alice.upload(alice.work().task_id, b"no\nmemory", content=pb.CONTENT_ERROR)

        (error,) = replies(grid, [message_id])

        assert error.error.reason == "no memory"


def test_only_proven_and_ready_nodes_are_in_the_grid(grid, bare_node, until):
    node = bare_node(grid.address, "alice")
    welcome = node.enrol().welcome
    assert welcome.node_id == node_number("alice")
    assert list(grid.get_node_ids()) == []
    node.say(ready=pb.Ready(base_fingerprint=b"b" * 32))
    until(lambda: list(grid.get_node_ids()) == [node_number("alice")])
    node.leave()
    until(lambda: list(grid.get_node_ids()) == [])
    assert grid.node_name(node_number("alice")) == "alice"
    assert grid.node_name(5) is None
    assert grid.public_key(node_number("alice")) is None


def test_a_message_to_a_node_that_was_never_here_gets_no_id(grid, attending):
    message = grid.create_message(to_content(b"task"), "train", 12345, "1")

    assert list(grid.push_messages([message])) == [""]


def test_a_task_is_sent_again_when_its_node_comes_back(grid, attending, send, replies):
    with attending(grid, "alice") as (alice,):
        message_id = send(grid, "alice", b"task")
        first = alice.work()
    with attending(grid, "alice") as (alice,):
        again = alice.work()
        assert again == first
        alice.upload(again.task_id, b"done")
        assert from_message(replies(grid, [message_id])[0]) == b"done"


def test_tasks_of_a_node_that_stays_away_fail_after_the_grace(make_grid, attending, send, replies):
    grid = make_grid(grace_s=0.2)
    with attending(grid, "alice") as (alice,):
        message_id = send(grid, "alice", b"task")
        alice.work()

    (reply,) = replies(grid, [message_id])

    assert reply.error.reason == "node alice left"
    with pytest.raises(PeerError, match="node alice left"):
        from_message(reply)


def test_a_node_is_heard_of_by_its_words_and_by_bytes_and_comes_back_another(grid, attending, send, until):
    def heard_at():
        # Of several readings the greatest: a busy machine may pause between the clock and the question.
        return max(time.monotonic() - grid.liveness(node)[1] for _ in range(5))

    def is_heard(say):
        before = heard_at()
        until(lambda: time.monotonic() > before + 0.2)
        assert heard_at() < before + 0.1
        say()
        until(lambda: heard_at() > before + 0.1)

    with attending(grid, "alice") as (alice,):
        (node,) = grid.get_node_ids()
        first, _ = grid.liveness(node)
        is_heard(lambda: alice.say(progress=pb.Progress(task_id="1", doing="training")))
        is_heard(lambda: send(grid, "alice", b"task"))
    until(lambda: grid.liveness(node) is None)
    with attending(grid, "alice"):
        assert grid.liveness(node)[0] > first
    assert grid.liveness(12345) is None


def test_a_disk_that_cannot_take_an_answer_stops_the_run_and_fails_no_task(grid, attending, send, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("server.incoming.os.fsync", full)
    with attending(grid, "alice") as (alice,):
        send(grid, "alice", b"task")
        work = alice.work()
        with pytest.raises(grpc.RpcError, match="server cannot write the answer"):
            alice.upload(work.task_id, b"done")
        with pytest.raises(DiskFullError, match=r"No space left on device; the disk at .* has [\d,]+ bytes free"):
            grid.wait(20.0)
        # The task waits for the server to come back.
        monkeypatch.undo()
        assert alice.upload(work.task_id, b"done").kept


def test_a_withdrawn_task_is_told_to_its_node_and_its_answer_is_late(grid, attending, send):
    with attending(grid, "alice") as (alice,):
        message_id = send(grid, "alice", b"task")
        work = alice.work()
        grid.withdraw([message_id], "deadline")

        assert alice.hear().withdraw == pb.Withdraw(task_id=work.task_id, reason="deadline")
        assert alice.held(work.task_id, b"x").late
        assert not alice.upload(work.task_id, b"x").kept
        assert not list(grid.pull_messages([message_id]))


def test_a_restarted_server_finds_the_answer_to_the_same_task(make_grid, attending, send, replies):
    grid = make_grid()
    with attending(grid, "alice", "bob") as (alice, bob):
        ids = [send(grid, node.name, b"task", group="5") for node in (alice, bob)]
        for node in (alice, bob):
            node.upload(node.work().task_id, b"trained by " + node.name.encode())
        # One was pulled before the server went down, the other was not.
        assert from_message(replies(grid, ids[:1])[0]) == b"trained by alice"
    grid.stop()
    grid = make_grid()
    with attending(grid, "alice", "bob") as (alice, bob):
        ids = [send(grid, node.name, b"task", group="5") for node in (alice, bob)]

        found = replies(grid, ids)

        assert [from_message(reply) for reply in found] == [b"trained by alice", b"trained by bob"]
        assert alice.held("5.train.0", b"trained by alice").complete


def test_an_answer_that_a_restarted_server_has_not_asked_for_is_neither_late_nor_taken(make_grid, attending, send):
    grid = make_grid()
    with attending(grid, "alice") as (alice,):
        assert alice.held("5.train.0", b"mine").unknown
        with pytest.raises(Exception, match="has not been assigned") as caught:
            alice.upload("5.train.0", b"mine")
        assert caught.value.code().name == "FAILED_PRECONDITION"
        send(grid, "alice", b"task", group="5")
        assert alice.upload(alice.work().task_id, b"mine").kept


def test_answers_of_a_group_are_forgotten_when_the_next_group_starts(grid, attending, send, replies, tmp_path, until):
    with attending(grid, "alice") as (alice,):
        for group in ("1", "2"):
            message_id = send(grid, "alice", b"task", group=group)
            alice.upload(alice.work().task_id, b"answer")
            replies(grid, [message_id])

            until(lambda group=group: answers(tmp_path) == [f"{group}.train.0.answer"])
        assert alice.held("1.train.0", b"answer").late


@pytest.mark.parametrize("kind", ["query", "evaluate"])
def test_answers_other_than_of_training_are_forgotten_once_pulled(
    grid, attending, send, replies, tmp_path, until, kind
):
    with attending(grid, "alice") as (alice,):
        message_id = send(grid, "alice", b"task", kind=kind)
        alice.upload(alice.work().task_id, b"answer")
        assert answers(tmp_path) == [f"1.{kind}.0.answer"]
        replies(grid, [message_id])

        until(lambda: not answers(tmp_path))


def test_send_and_receive_returns_what_came_in_time(grid, attending):
    with attending(grid, "alice", "bob") as (alice, bob):
        messages = [
            grid.create_message(to_content(b"task"), "query", node_number(node.name), "1") for node in (alice, bob)
        ]
        ids = list(grid.push_messages(messages[:1]))
        alice.upload(alice.work().task_id, b"answer")

        late = grid.send_and_receive(messages[1:], timeout=0.1)
        in_time = list(grid.pull_messages(ids))

        assert [reply.metadata.src_node_id for reply in in_time] == [node_number("alice")]
        assert list(late) == []


def test_wait_returns_at_once_for_what_happened_since_the_last_wait(grid, attending, send):
    grid.wait(0.0)
    with attending(grid, "alice") as (alice,):
        grid.wait(None)
        grid.wait(0.0)
        send(grid, "alice", b"task")
        alice.upload(alice.work().task_id, b"answer")
        grid.wait(None)
    grid.wait(None)


@pytest.mark.parametrize("finished", [False, True])
def test_a_server_that_stops_says_whether_nodes_may_go(make_grid, attending, finished):
    grid = make_grid()
    with attending(grid, "alice") as (alice,):
        grid.stop(finished=finished)

        assert alice.hear().drain == pb.Drain(finished=finished)
        assert alice.heard_end()


def test_without_a_kit_only_loopback_can_be_served(tmp_path, make_grid):
    for listen in ("0.0.0.0:0", "192.0.2.1:9440", "example.org:9440", "[::]:0"):
        with pytest.raises(ConfigError, match="expected a loopback address"):
            make_grid(listen=listen)


def test_a_port_that_is_taken_is_said_in_one_line(make_grid):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(MachineError, match=r"cannot listen on 127.0.0.1:\d+: the port is in use") as caught:
            make_grid(listen=f"127.0.0.1:{other.getsockname()[1]}")
    assert "\n" not in str(caught.value)


def test_over_tls_a_provisioned_node_works_with_its_kit(make_grid, bare_node, federation, until, send, replies):
    grid = make_grid(kit=ServerKit.load(federation / "server"))
    kit = ClientKit.load(federation / "clients" / "alice")
    alice = bare_node(grid.address, "alice", key=kit.node_key, credentials=channel_credentials(kit)).attend()
    until(lambda: list(grid.get_node_ids()))
    message_id = send(grid, "alice", b"head", b"b" * 3_000_000)
    work = alice.work()

    assert alice.task(work) == b"head" + b"b" * 3_000_000
    assert alice.upload(work.task_id, b"a" * 3_000_000).kept
    assert from_message(replies(grid, [message_id])[0]) == b"a" * 3_000_000
    assert grid.public_key(node_number("alice")) == kit.node_key.public_bytes
    alice.leave()


def test_a_revoked_node_is_sent_away_while_it_is_attached(make_grid, bare_node, federation, until, monkeypatch):
    from datetime import UTC, datetime

    from plait.trust.provision import revoke

    monkeypatch.setattr("server.grpc_grid._REGISTER_EVERY_S", 0.1)
    grid = make_grid(kit=ServerKit.load(federation / "server"))
    kit = ClientKit.load(federation / "clients" / "alice")
    alice = bare_node(grid.address, "alice", key=kit.node_key, credentials=channel_credentials(kit)).attend()
    until(lambda: list(grid.get_node_ids()))
    revoke(federation, "alice", now=datetime.now(UTC))

    assert alice.hear().refused.reason == pb.REFUSED_REASON_REVOKED_KEY
    until(lambda: not list(grid.get_node_ids()))


SWARM_THAT_IS_KILLED = """
import asyncio, sys
import grpc.aio
from plait.transport import CHANNEL_OPTIONS
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import FederationStub

async def attend(name):
    channel = grpc.aio.insecure_channel(sys.argv[1], options=list(CHANNEL_OPTIONS))
    call = FederationStub(channel).Attend()
    await call.write(pb.FromNode(hello=pb.Hello(protocol=1, name=name, nonce=b"n" * 32)))
    await call.read()
    await call.write(pb.FromNode(proof=pb.Proof()))
    await call.read()
    await call.write(pb.FromNode(ready=pb.Ready(base_fingerprint=b"b" * 32)))
    await call.read()

async def attend_all():
    await asyncio.gather(*(attend(f"n{number}") for number in range(300)))

asyncio.run(attend_all())
"""


@pytest.mark.slow
def test_nodes_that_go_as_the_server_stops_leave_no_traceback(grid, until, caplog, capfd):
    with subprocess.Popen([sys.executable, "-c", SWARM_THAT_IS_KILLED, grid.address]) as swarm:
        try:
            until(lambda: len(list(grid.get_node_ids())) == 300)
        finally:
            swarm.kill()
        grid.stop()

    assert "Traceback" not in caplog.text + capfd.readouterr().err
    assert not [record for record in caplog.records if record.name.startswith("grpc")]
