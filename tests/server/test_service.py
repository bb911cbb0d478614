import hashlib
import json
import threading
import time
import urllib.request
from contextlib import nullcontext
from datetime import UTC, datetime

import grpc
import pytest

from plait.ledger import events
from plait.ledger.run_now import RunNow
from plait.rounds.channel import Identity
from plait.transport.protocol import CHUNK_BYTES, node_number
from plait.transport.status import fetch_status
from plait.trust.keys import NodeKey
from plait.trust.kit import ClientKit, ServerKit
from plait.trust.provision import provision, revoke
from plait.v1 import federation_pb2 as pb
from server.inbox import Incoming
from tests.plait.rounds.conftest import started
from tests.server.conftest import BareNode, attending, code, node_of, refusal, replies, send
from tests.tree import files_below
from tests.waiting import until

BIG = bytes(range(256)) * (4 * CHUNK_BYTES // 256)


class TestBadNodes:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"protocol": 3}, "PROTOCOL"),
            ({"name": "../etc"}, "MALFORMED"),
            ({"name": ""}, "MALFORMED"),
            ({"name": "a" * 65}, "MALFORMED"),
            ({"nonce": b"short"}, "MALFORMED"),
            ({"public_key": b"short"}, "MALFORMED"),
        ],
    )
    def test_a_hello_that_cannot_be_is_refused(self, channel, changes, reason):
        node = BareNode(channel.address, "alice")

        assert refusal(node.enrol(**changes)) == reason
        assert node.heard_end()

    @pytest.mark.parametrize("event", [{"proof": pb.Proof()}, {"ready": pb.Ready()}, {}])
    def test_a_node_that_does_not_say_hello_first_is_refused(self, channel, event):
        node = BareNode(channel.address, "alice")
        node.say(**event)

        assert refusal(node.hear()) == "MALFORMED"

    @pytest.mark.slow
    def test_who_does_not_prove_its_key_in_time_is_told_to_try_again(self, make_channel):
        channel = make_channel(handshake_s=3.0)
        silent, hesitant = BareNode(channel.address, "alice"), BareNode(channel.address, "bob")
        hesitant.say(hello=hesitant.hello())
        assert hesitant.hear().HasField("challenge")

        assert refusal(silent.hear()) == "LATE"
        assert refusal(hesitant.hear()) == "LATE"

    def test_when_too_many_wait_for_long_the_next_are_told_to_try_again(self, make_channel, monkeypatch):
        monkeypatch.setattr("server.attendance._QUEUE_S", 0.2)
        channel = make_channel(max_unproven=1)
        silent = BareNode(channel.address, "alice")
        silent.say(hello=silent.hello())
        silent.hear()

        assert refusal(BareNode(channel.address, "carol").hear()) == "FULL"

    def test_more_nodes_than_the_server_takes_are_refused_but_a_known_one_may_replace_itself(self, make_channel):
        channel = make_channel(max_nodes=1)
        alice = BareNode(channel.address, "alice")
        assert alice.enrol().HasField("welcome")

        assert refusal(BareNode(channel.address, "bob").enrol()) == "FULL"
        again = BareNode(channel.address, "alice")
        assert again.enrol().HasField("welcome")
        assert refusal(alice.hear()) == "REPLACED"

    def test_a_node_with_another_base_is_refused(self, channel):
        node = BareNode(channel.address, "alice")
        node.enrol()
        node.say(ready=pb.Ready(base_fingerprint=b"x" * 32))

        assert refusal(node.hear()) == "BASE_MISMATCH"
        assert channel.nodes(0) == []


class TestBadKeys:
    @pytest.fixture
    def secure(self, make_channel, federation):
        return make_channel(kit=ServerKit.load(federation / "server"))

    @pytest.fixture
    def alice(self, secure, kits):
        node = node_of(secure, kits["alice"]).attend()
        until(lambda: secure.nodes(0))
        return node

    def test_a_key_that_is_revoked_meanwhile_ends_the_session_at_the_next_call_and_fails_the_task(
        self, alice, secure, kits, federation
    ):
        bob = node_of(secure, kits["bob"]).attend()
        until(lambda: len(secure.nodes(0)) == 2)
        ids = [send(secure, name, b"task") for name in ("alice", "bob")]
        task_ids = [node.work().task_id for node in (alice, bob)]

        revoke(federation, "alice", now=datetime.now(UTC))

        assert code(alice.upload, task_ids[0], b"answer") == "PERMISSION_DENIED"
        assert refusal(alice.hear()) == "REVOKED_KEY"
        assert bob.upload(task_ids[1], b"answer").kept
        lost, kept = replies(ids)
        assert lost.detail.endswith("failed: key of alice has been revoked")
        assert kept == b"answer"

    def test_a_node_whose_key_is_revoked_is_sent_away_though_it_says_nothing(
        self, alice, secure, federation, monkeypatch
    ):
        monkeypatch.setattr("server.nodes_channel._REGISTER_EVERY_S", 0.0)
        revoke(federation, "alice", now=datetime.now(UTC))

        assert refusal(alice.hear()) == "REVOKED_KEY"
        until(lambda: not secure.nodes(0))

    def test_a_register_that_cannot_be_read_takes_no_answers_and_admits_no_node_until_it_can(
        self, alice, secure, kits, federation
    ):
        send(secure, "alice", b"task")
        task_id = alice.work().task_id
        register = federation / "server" / "clients.json"
        before = register.read_text()
        register.write_text("{")

        assert code(alice.upload, task_id, b"answer") == "UNAVAILABLE"
        assert code(node_of(secure, kits["bob"]).enrol) == "UNAVAILABLE"
        register.write_text(before)
        assert alice.upload(task_id, b"answer").kept

    def test_an_answer_over_the_long_call_counts_only_with_a_key_that_is_valid(self, alice, secure, federation):
        sent = send(secure, "alice", b"task")
        task_id = alice.work().task_id
        revoke(federation, "alice", now=datetime.now(UTC))

        alice.say(answer=pb.Answer(task_id=task_id, content=pb.CONTENT_PLAIT, data=b"answer"))

        assert refusal(alice.hear()) == "REVOKED_KEY"
        (lost,) = replies([sent])
        assert lost.detail.endswith("failed: key of alice has been revoked")

    def test_an_unknown_key_or_one_of_another_name_or_certificate_is_refused(self, secure, kits):
        assert refusal(node_of(secure, kits["alice"], key=NodeKey.generate()).enrol()) == "UNKNOWN_KEY"
        assert refusal(node_of(secure, kits["alice"], name="bob").enrol()) == "WRONG_NAME"
        assert refusal(node_of(secure, kits["alice"], shown=kits["bob"]).enrol()) == "WRONG_NAME"

    def test_a_proof_over_other_bytes_is_refused(self, secure, kits):
        node = node_of(secure, kits["alice"])
        node.say(hello=node.hello())
        node.hear()
        node.say(proof=pb.Proof(signature=kits["alice"].node_key.sign(b"something else")))

        assert refusal(node.hear()) == "BAD_PROOF"

    @pytest.mark.parametrize("certified", [False, True])
    def test_without_a_certificate_of_the_right_authority_there_is_no_connection(
        self, secure, kits, tmp_path, certified
    ):
        provision(tmp_path / "other", ["alice"], ["localhost", "127.0.0.1"], now=datetime.now(UTC))
        other = ClientKit.load(tmp_path / "other" / "clients" / "alice").tls
        shown = {"private_key": other.key, "certificate_chain": other.certificate} if certified else {}
        credentials = grpc.ssl_channel_credentials(root_certificates=kits["alice"].tls.authority, **shown)

        assert code(node_of(secure, kits["alice"], credentials=credentials).hear) == "UNAVAILABLE"

    def test_a_stolen_session_token_is_worth_nothing_to_another_member(self, alice, secure, kits):
        bob = node_of(secure, kits["bob"]).attend()
        until(lambda: len(secure.nodes(0)) == 2)
        send(secure, "alice", b"head", BIG)
        work = alice.work()
        token, bob.session = bob.session, alice.session

        assert code(bob.held, work.task_id, b"x") == "UNAUTHENTICATED"
        assert code(bob.upload, work.task_id, b"stolen") == "UNAUTHENTICATED"
        assert code(bob.body, work) == "UNAUTHENTICATED"
        assert code(bob.stub.Status, pb.StatusRequest(token=alice.session), timeout=180) == "UNAUTHENTICATED"
        assert bob.stub.Status(pb.StatusRequest(token=token), timeout=180).json
        bob.session = token
        assert code(bob.upload, work.task_id, b"bob's") == "FAILED_PRECONDITION"
        assert alice.task(work) == b"head" + BIG
        assert alice.upload(work.task_id, b"answer").kept
        assert secure.identity(node_number("alice")) == Identity("alice", kits["alice"].node_key.public_bytes)


class TestDownloads:
    """Bodies larger than what the windows and sockets between server and node take in unread."""

    BODY = bytes(64 << 20)

    def unread(self, node, work):
        """A download of which only the first chunk is read."""
        call = node.stub.Download(pb.DownloadRequest(session=node.session, sha256=work.body_sha256), timeout=120)
        next(call)
        return call

    @pytest.mark.slow
    def test_a_nodes_newer_download_takes_the_place_of_its_older_ones(self, make_channel):
        channel = make_channel(transfers_at_once=2)
        with attending(channel, "alice", "bob") as (alice, bob):
            for name in ("alice", "bob"):
                send(channel, name, b"head", self.BODY)
            work = bob.work()
            unread = [self.unread(bob, work) for _ in range(6)]

            # Alice is not kept waiting though bob asks for more than there may be in all.
            assert len(alice.task(alice.work())) == len(b"head") + len(self.BODY)
            for call in unread[:-1]:
                assert code(lambda call=call: list(call)) == "ABORTED"
            assert sum(len(chunk.data) for chunk in unread[-1]) == len(self.BODY) - CHUNK_BYTES

    def test_a_node_that_fetches_the_same_again_and_again_has_to_wait(self, channel):
        with attending(channel, "alice", "bob") as (alice, bob):
            for name in ("alice", "bob"):
                send(channel, name, b"head", BIG)
            work = alice.work()
            for _ in range(16):
                assert alice.body(work, offset=len(BIG) - 1) == BIG[-1:]

            assert code(alice.body, work) == "RESOURCE_EXHAUSTED"
            assert bob.task(bob.work()) == b"head" + BIG

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("pace", "pauses"),
        [({}, [8.0]), ({"least_bytes_s": 1e12}, [0.1] * 63)],
        ids=["stalled", "slow"],
    )
    def test_a_download_that_is_slower_than_the_pace_is_cut_off_and_can_go_on(self, make_channel, pace, pauses):
        channel = make_channel(stall_s=2.0, **pace)
        with attending(channel, "alice") as (alice,):
            send(channel, "alice", b"head", self.BODY)
            work = alice.work()
            unread, left = self.unread(alice, work), iter(pauses)
            received = [CHUNK_BYTES]

            def read():
                for chunk in unread:
                    received.append(len(chunk.data))
                    time.sleep(next(left, 0.0))

            assert code(read) == "ABORTED"
            assert "resume it later" in unread.details()
            assert sum(received) < len(self.BODY)
            assert alice.body(work, offset=len(self.BODY) - 10) == bytes(10)


class TestUploads:
    def test_an_upload_goes_on_where_it_broke_off(self, given):
        alice, sent, task_id = given
        broken, hold = alice.begin_upload(task_id, BIG, chunks=2)
        broken.cancel()
        hold.set()

        assert alice.held(task_id, BIG[::-1]).offset == 0
        assert code(alice.upload, task_id, BIG, offset=3 * CHUNK_BYTES) == "ABORTED"
        assert alice.upload(task_id, BIG, offset=2 * CHUNK_BYTES).kept
        assert replies([sent])[0] == BIG
        assert alice.held(task_id, BIG).complete

    def test_an_upload_goes_on_after_the_server_was_restarted(self, make_channel):
        channel = make_channel()
        with attending(channel, "alice") as (alice,):
            send(channel, "alice", b"task")
            task_id = alice.work().task_id
            broken, hold = alice.begin_upload(task_id, BIG)
            broken.cancel()
            hold.set()
        channel.stop()
        channel = make_channel()
        with attending(channel, "alice") as (alice,):
            sent = send(channel, "alice", b"task")
            assert alice.held(alice.work().task_id, BIG).offset == CHUNK_BYTES
            assert alice.upload(task_id, BIG, offset=CHUNK_BYTES).kept
            assert replies([sent])[0] == BIG

    def test_a_newer_upload_of_the_same_answer_takes_the_place_of_the_older(self, given):
        alice, _, task_id = given
        older, hold = alice.begin_upload(task_id, BIG)
        assert alice.upload(task_id, BIG, offset=CHUNK_BYTES).kept
        hold.set()
        assert older.code() is grpc.StatusCode.ABORTED

    def test_an_upload_of_a_replaced_session_is_cut_off(self, channel):
        old = BareNode(channel.address, "alice").attend()
        until(lambda: channel.nodes(0))
        send(channel, "alice", b"task")
        task_id = old.work().task_id
        upload, replaced = old.begin_upload(task_id, BIG, then=BIG[CHUNK_BYTES : 2 * CHUNK_BYTES])
        with attending(channel, "alice"):
            assert refusal(old.hear()) == "REPLACED"
            replaced.set()
            assert upload.code() is grpc.StatusCode.UNAUTHENTICATED

    def test_a_node_that_connects_again_is_told_when_its_older_connection_completes_the_answer(
        self, channel, monkeypatch
    ):
        genuine, reached, go_on = Incoming.finish, threading.Event(), threading.Event()

        def finish(incoming):
            reached.set()
            assert go_on.wait(180)
            return genuine(incoming)

        monkeypatch.setattr(Incoming, "finish", finish)
        old = BareNode(channel.address, "alice").attend()
        until(lambda: channel.nodes(0))
        send(channel, "alice", b"head", BIG)
        task_id = old.work().task_id
        parts = [old.start(task_id, b"answer"), pb.UploadPart(data=b"answer")]
        upload = old.stub.Upload.future(iter(parts), timeout=180)
        assert reached.wait(180)
        new = BareNode(channel.address, "alice").attend()
        work = new.work()
        assert work.task_id == task_id
        go_on.set()

        assert upload.result().kept
        # Else it would ask for the body again and again, which is gone with the task.
        assert new.hear().withdraw == pb.Withdraw(task_id=task_id, reason="answered")
        assert code(new.body, work) == "NOT_FOUND"

    @pytest.mark.parametrize("size", [len(BIG) - 1, len(BIG) + 1])
    def test_an_answer_of_another_size_than_announced_may_come_again(self, given, size):
        alice, _, task_id = given

        assert code(alice.upload, task_id, BIG, size=size) == "ABORTED"
        assert alice.upload(task_id, BIG).kept

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"size": (8 << 20) + 1}, "failed: node alice: answer has 8388609 bytes, expected at most 8388608"),
            ({"content": 3}, "failed: node alice: content is 3, expected 1, or 2 for an error"),
        ],
    )
    def test_an_answer_that_is_too_large_or_of_another_kind_is_refused_unread_and_fails_the_task(
        self, given, tmp_path, changes, why
    ):
        alice, sent, task_id = given

        assert code(alice.upload, task_id, b"", **changes) == "INVALID_ARGUMENT"
        assert not [file for file in files_below(tmp_path / "inbox") if file.suffix == ".part"]
        assert replies([sent])[0].detail.endswith(why)

    def test_an_answer_with_another_digest_is_given_up_after_three_tries(self, given, tmp_path):
        alice, sent, task_id = given
        wrong = hashlib.sha256(b"other").digest()

        tries = [code(alice.upload, task_id, BIG, sha256=wrong) for _ in range(3)]

        assert tries == ["ABORTED", "ABORTED", "INVALID_ARGUMENT"]
        until(lambda: not files_below(tmp_path / "inbox"))
        assert "SHA-256 is not what was announced" in replies([sent])[0].detail

    @pytest.mark.parametrize("changes", [{"sha256": b"short"}, {"content": 0}])
    def test_a_start_that_cannot_be_is_refused(self, given, changes):
        alice, _, task_id = given

        assert code(alice.upload, task_id, b"answer", **changes) == "INVALID_ARGUMENT"

    def test_a_session_authorises_only_its_own_tasks_and_bodies(self, channel):
        with attending(channel, "alice", "bob") as (alice, bob):
            send(channel, "alice", b"head", BIG)
            work = alice.work()

            assert bob.held(work.task_id, b"x").unknown
            assert code(bob.upload, work.task_id, b"stolen") == "FAILED_PRECONDITION"
            assert code(bob.body, work) == "NOT_FOUND"
            for token in (b"", b"?" * 32, bob.session[:-1]):
                alice.session, mine = token, alice.session
                assert code(alice.held, work.task_id, b"x") == "UNAUTHENTICATED"
                assert code(alice.upload, work.task_id, b"x") == "UNAUTHENTICATED"
                assert code(alice.body, work) == "UNAUTHENTICATED"
                alice.session = mine
            assert code(alice.body, work, offset=len(BIG) + 1) == "OUT_OF_RANGE"
            assert alice.body(work, offset=len(BIG)) == b""

    @pytest.mark.parametrize("task_id", ["", "../../x", "1.train.0/..", "9" * 300, "1.train.-1", "1.train", "a\x00b"])
    def test_task_ids_that_were_never_given_out_harm_nothing(self, channel, tmp_path, task_id):
        with attending(channel, "alice") as (alice,):
            assert alice.held(task_id, b"x").late
            assert not alice.upload(task_id, b"x").kept
            assert not list((tmp_path / "inbox").rglob("*"))


class TestAnswersOverTheLongCall:
    def test_the_run_has_an_answer_once_its_receipt_came_also_after_a_restart(self, make_channel):
        channel = make_channel()
        with attending(channel, "alice", "bob") as nodes:
            for node in nodes:
                send(channel, node.name, b"task")
            for node, answer in zip(nodes, (b"alice's", b""), strict=True):
                assert node.answer(node.work().task_id, answer).kept
        channel.stop()

        channel = make_channel()
        with attending(channel, "alice", "bob"):
            assert replies([send(channel, name, b"task") for name in ("alice", "bob")]) == [b"alice's", b""]

    def test_the_same_again_has_a_receipt_again_and_counts_once(self, given):
        alice, sent, task_id = given

        assert alice.answer(task_id, b"first").kept
        assert alice.answer(task_id, b"second").kept
        assert replies([sent]) == [b"first"]

    def test_one_to_a_task_that_was_never_given_harms_nothing(self, channel):
        with attending(channel, "alice") as (alice,):
            for task_id in ("", "1.train", "../../x", "9" * 10000):
                assert not alice.answer(task_id, b"answer").kept
            alice.say(answer=pb.Answer(task_id="1.train.0", content=pb.CONTENT_PLAIT, data=b"answer"))
            sent = send(channel, "alice", b"task")
            assert alice.answer(alice.work().task_id, b"answer").kept
            assert replies([sent]) == [b"answer"]

    @pytest.mark.parametrize(
        ("data", "content", "why"),
        [
            (bytes(65537), pb.CONTENT_PLAIT, "malformed"),
            (b"answer", 3, "malformed"),
            (bytes(4097), pb.CONTENT_ERROR, "too-large"),
        ],
    )
    def test_one_that_cannot_be_ends_the_session(self, given, logged, data, content, why):
        alice, _, task_id = given
        alice.say(answer=pb.Answer(task_id=task_id, content=content, data=data))

        assert refusal(alice.hear()) == "MALFORMED"
        assert alice.heard_end()
        assert any(f"reason={why}" in record.getMessage() for record in logged)

    def test_one_that_cannot_be_written_is_to_be_tried_again(self, channel, given, monkeypatch):
        alice, _, task_id = given
        with monkeypatch.context() as broken:
            broken.setattr("server.inbox.os.fsync", lambda _: (_ for _ in ()).throw(OSError(5, "broken")))
            alice.say(answer=pb.Answer(task_id=task_id, content=pb.CONTENT_PLAIT, data=b"answer"))
            assert refusal(alice.hear()) == "FULL"

        with attending(channel, "alice") as (alice,):
            assert alice.work().task_id == task_id
            assert alice.answer(task_id, b"answer").kept


class TestOperators:
    def test_the_status_says_what_the_run_is_doing(self, make_channel, tmp_path):
        now = RunNow()
        now.take(started().model_copy(update={"config": {"rounds": 5}}))
        now.take(events.RoundFinished(round=1, wall_s=3.0))
        now.take(events.RoundStarted(round=2, cohort=("alice", "bob")))
        channel = make_channel(progress=lambda: nullcontext(now))
        with attending(channel, "alice") as (alice,):
            send(channel, "alice", b"task")
            alice.say(progress=pb.Progress(task_id="1.train.0", doing="training, step 3 of 4"))
            until(lambda: fetch_status(channel.address, kit=None)["nodes"][0]["doing"] == "training, step 3 of 4")

            status = fetch_status(channel.address, kit=None)

        assert status["run"] == tmp_path.name
        assert (status["state"], status["round"], status["rounds"]) == ("training", 2, 5)
        assert status["eta_s"] == 12.0
        assert {each["name"]: each["state"] for each in status["cohort"]} == {"alice": "working", "bob": "answered"}
        assert status["nodes"][0]["device"] == "cpu"
        json.dumps(status)

    def test_over_tls_the_status_is_for_the_operator_and_for_nodes(self, make_channel, federation, kits):
        channel = make_channel(kit=ServerKit.load(federation / "server"))
        alice = node_of(channel, kits["alice"])
        alice.enrol()
        token = (federation / "server" / "operator.token").read_text().strip().encode()

        for good in (token, alice.session):
            assert json.loads(alice.stub.Status(pb.StatusRequest(token=good), timeout=180).json)["nodes"]
        for bad in (b"", b"x" * 64, token[:-1], "é".encode()):
            assert code(alice.stub.Status, pb.StatusRequest(token=bad), timeout=180) == "UNAUTHENTICATED"

    def test_the_metrics_count_what_happened(self, make_channel):
        channel = make_channel(metrics_listen="127.0.0.1:0")
        with attending(channel, "alice") as (alice,):
            BareNode(channel.address, "bob").enrol(protocol=9)
            sent = send(channel, "alice", b"head", BIG)
            work = alice.work()
            alice.task(work)
            code(alice.upload, work.task_id, b"answer", sha256=b"")
            alice.upload(work.task_id, b"answer")
            replies([sent])
            until(lambda: "plait_nodes_attached 1.0" in page(channel))

            lines = page(channel).splitlines()

        downlink = dict(line.split() for line in lines if line.startswith("plait_downlink_bytes_total "))
        assert float(downlink["plait_downlink_bytes_total"]) == len(BIG) + len(b"head")
        for line in (
            "plait_uplink_bytes_total 6.0",
            "plait_answers_received_total 1.0",
            'plait_answers_refused_total{reason="malformed"} 1.0',
            'plait_enrolments_refused_total{reason="protocol"} 1.0',
            "plait_tasks_given_total 1.0",
        ):
            assert line in lines


def page(channel) -> str:
    with urllib.request.urlopen(f"http://{channel._metrics_server.address}/metrics", timeout=180) as reply:
        return reply.read().decode()
