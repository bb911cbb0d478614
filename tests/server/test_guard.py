"""What a member, a revoked one or a stranger can take from the others before enrolment: over TLS, real certificates."""

import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from plait import __version__
from plait.cli import doctor
from plait.errors import PeerError
from plait.transport.credentials import channel_credentials
from plait.transport.status import fetch_status
from plait.trust.keys import NodeKey
from plait.trust.kit import ServerKit, StaffKit
from plait.trust.provision import provision, revoke
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import FederationStub, OperationsStub
from server.standing import calls_of
from tests.server.conftest import BareNode, code, node_of, refusal, send
from tests.waiting import until


@pytest.fixture
def make_secure(make_channel, federation):
    """Makes channels with room for few, as `plait server` does."""

    def make(**changes):
        room = {"max_nodes": 20, "max_unproven": 64}
        return make_channel(kit=ServerKit.load(federation / "server"), **{**room, **changes})

    return make


def connection(channel, kit):
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(channel.address, channel_credentials(kit), options=options)


class TestDoor:
    @pytest.mark.slow
    def test_idle_streams_of_one_member_do_not_delay_the_others(self, make_secure, kits):
        channel = make_secure()
        connections = [connection(channel, kits["bob"]) for _ in range(40)]
        idle = [FederationStub(each).Attend(iter(threading.Event().wait, True)) for each in connections * 8]
        # Two of them have a turn, and may be among these; none is told anything final.
        heard = [refusal(event) for call in idle[-8:] if (event := next(call, None))]

        alice = node_of(channel, kits["alice"])

        assert {"FULL"} <= set(heard) <= {"FULL", "LATE"}
        assert alice.enrol().HasField("welcome")
        for each in connections:
            each.close()

    @pytest.mark.slow
    def test_the_time_for_the_proof_begins_once_a_node_has_its_turn(self, make_secure, kits):
        channel = make_secure(max_unproven=1, handshake_s=5.0)
        bob = node_of(channel, kits["bob"])
        bob.say(hello=bob.hello())
        assert bob.hear().HasField("challenge")

        assert node_of(channel, kits["alice"]).enrol().HasField("welcome")
        assert refusal(bob.hear()) == "LATE"

    def test_a_connection_that_a_node_has_given_up_does_not_end_its_newer_one(self, make_secure, kits):
        channel = make_secure()
        older = node_of(channel, kits["alice"])
        hello = older.hello()
        older.say(hello=hello)
        challenge = older.hear().challenge
        newer = node_of(channel, kits["alice"]).attend()
        until(lambda: channel.nodes(0))

        older.say(proof=older.proof(challenge, hello))

        assert refusal(older.hear()) == "REPLACED"
        assert newer.held("1.train.0", b"").unknown


class TestCertificates:
    @pytest.mark.parametrize("how", ["revoked", "unknown"])
    def test_a_node_that_the_register_does_not_know_is_refused_at_every_call(self, make_secure, kits, federation, how):
        channel = make_secure()
        if how == "revoked":
            revoke(federation, "bob", now=datetime.now(UTC))
        else:
            (federation / "server" / "clients.json").write_text('{"clients": []}')
        bob = node_of(channel, kits["bob"])
        health = health_pb2_grpc.HealthStub(bob.channel)
        requests = {
            "Check": lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=180),
            "Status": lambda: bob.stub.Status(pb.StatusRequest(), timeout=180),
            "Held": lambda: bob.held("1.train.0", b""),
            "Download": lambda: bob.body(pb.Work(body_sha256=b"x" * 32)),
            "Upload": lambda: bob.upload("1.train.0", b"answer"),
        }

        assert {name: code(call) for name, call in requests.items()} == dict.fromkeys(requests, "PERMISSION_DENIED")
        # Before it has said anything.
        assert refusal(bob.hear()) == f"{how.upper()}_KEY"
        assert bob.heard_end()

    def test_operators_may_look_and_take_no_part(self, make_secure, federation):
        provision(federation, [], [], operators=["olga"], now=datetime.now(UTC))
        channel, kit = make_secure(), StaffKit.load(federation / "operators/olga")
        person = BareNode(channel.address, kit.name, key=NodeKey.generate(), credentials=channel_credentials(kit))
        person.session = b"s" * 32
        requests = {
            "Held": lambda: person.held("1.train.0", b""),
            "Download": lambda: person.body(pb.Work(body_sha256=b"x" * 32)),
            "Upload": lambda: person.upload("1.train.0", b"answer"),
        }

        assert fetch_status(channel.address, kit=kit)["nodes"] == []
        assert {name: code(call) for name, call in requests.items()} == dict.fromkeys(requests, "PERMISSION_DENIED")
        assert refusal(person.hear()) == "ROLE"
        assert person.heard_end()
        revoke(federation, kit.name, now=datetime.now(UTC))
        with pytest.raises(PeerError, match="key has been revoked"):
            fetch_status(channel.address, kit=kit)

    def test_clients_and_revoked_operators_do_not_reach_what_keeps_the_runs(self, make_secure, federation, kits):
        provision(federation, [], [], operators=["olga", "otto"], now=datetime.now(UTC))
        revoke(federation, "otto", now=datetime.now(UTC))
        asked = []
        runs = SimpleNamespace(submit=lambda *_, **__: asked.append("run") or "run", cancel=asked.append,
                               runs_json=lambda: asked.append("all"), files=asked.append)  # fmt: skip
        channel = make_secure(stays=True, more=calls_of(runs))
        olga, otto = (StaffKit.load(federation / "operators" / name) for name in ("olga", "otto"))
        for kit in (kits["alice"], otto):
            with connection(channel, kit) as line:
                operations = OperationsStub(line)
                requests = {
                    "Submit": lambda calls=operations: calls.Submit(pb.SubmitRequest(config_json="{}"), timeout=180),
                    "Cancel": lambda calls=operations: calls.Cancel(pb.CancelRequest(run="run"), timeout=180),
                    "Runs": lambda calls=operations: calls.Runs(pb.RunsRequest(), timeout=180),
                    "Fetch": lambda calls=operations: list(calls.Fetch(pb.FetchRequest(run="run"), timeout=180)),
                }
                denied = dict.fromkeys(requests, "PERMISSION_DENIED")
                assert {name: code(call) for name, call in requests.items()} == denied
        assert not asked
        with connection(channel, olga) as line:
            assert OperationsStub(line).Submit(pb.SubmitRequest(config_json="{}"), timeout=180).run == "run"

    def test_health_can_be_asked_but_not_watched(self, make_secure, kits):
        with connection(make_secure(), kits["bob"]) as opened:
            health = health_pb2_grpc.HealthStub(opened)

            for name in ("", "plait.v1.Federation"):
                assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=180).status == 1
            assert code(lambda: next(health.Watch(health_pb2.HealthCheckRequest(), timeout=180))) == "UNIMPLEMENTED"

    def test_no_name_has_more_calls_at_a_time_than_a_node_needs(self, make_secure, kits):
        channel = make_secure()
        connections = [connection(channel, kits["bob"]) for _ in range(4)]
        calls = [FederationStub(each).Upload.future(iter(threading.Event().wait, True)) for each in connections * 5]

        until(lambda: sum(call.done() for call in calls) == 4)
        assert {call.code().name for call in calls if call.done()} == {"RESOURCE_EXHAUSTED"}
        assert node_of(channel, kits["alice"]).enrol().HasField("welcome")
        for each in connections:
            each.close()
        until(lambda: node_of(channel, kits["bob"]).enrol().HasField("welcome"))


class TestStrangers:
    def test_sockets_that_are_opened_again_all_the_time_keep_neither_operators_nor_nodes_out(
        self, make_secure, kits, federation
    ):
        channel = make_secure()
        alice = node_of(channel, kits["alice"]).attend()
        until(lambda: channel.nodes(0))
        over = threading.Event()
        strangers = [threading.Thread(target=reopen, args=(channel.address, over, 25)) for _ in range(8)]
        for stranger in strangers:
            stranger.start()
        try:
            statuses = [fetch_status(channel.address, kit=ServerKit.load(federation / "server")) for _ in range(10)]
            send(channel, "alice", b"task")
            assert alice.work().head == b"task"
            assert node_of(channel, kits["bob"]).enrol().HasField("welcome")
        finally:
            over.set()
            for stranger in strangers:
                stranger.join()

        assert [len(status["nodes"]) for status in statuses] == [1] * 10


def reopen(address, over, count):
    """Hold so many sockets, and open each anew once the server hangs up."""
    host, _, port = address.rpartition(":")
    opened = []
    while not over.wait(0.01):
        while len(opened) < count:
            with suppress(OSError):
                opened.append(socket.create_connection((host, int(port)), timeout=5))
                opened[-1].setblocking(False)
        opened = [each for each in opened if not hung_up(each)]
    for each in opened:
        each.close()


def hung_up(connection):
    with suppress(BlockingIOError):
        try:
            while connection.recv(1 << 12):
                pass
        except ConnectionError:
            pass
        connection.close()
        return True
    return False


class TestDoctor:
    def test_a_deployment_is_checked_from_outside(self, make_secure, kits, federation, monkeypatch):
        provision(federation, [], [], operators=["olga"], now=datetime.now(UTC), days=9)
        channel = make_secure()
        nodes = [node_of(channel, kits[name]) for name in ("alice", "bob")]
        for each, version in zip(nodes, ("0.0.1", __version__), strict=True):
            assert each.enrol(version=version).HasField("welcome")
        until(lambda: len(fetch_status(channel.address, kit=ServerKit.load(federation / "server"))["nodes"]) == 2)
        found = doctor._deployment(channel.address, federation / "operators" / "olga")
        findings = {each.what: each for each in found[:5]}
        clients = {each.found: each.advice for each in doctor._deployment(channel.address, federation / "server")[5:]}

        own, servers = findings["this kit's certificate"], findings["the server's certificate"]
        assert (own.found, bool(own.advice)) == ("8 days left", True)
        assert (servers.found, servers.advice) == ("729 days left", "")
        assert (findings["clock"].advice, findings["server"].advice) == ("", "")
        assert findings["free space"].found.endswith(" GB at the server")
        assert clients == {"alice: 0.0.1": f"upgrade to {__version__}", f"bob: {__version__}": ""}
        # Seen from a machine whose clock is an hour behind.
        monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: time.time() - 3600))
        (clock,) = (each for each in doctor._deployment(channel.address, federation / "server") if each.what == "clock")
        assert clock.advice == "set the clock of one of the two machines"
