"""Against real servers on loopback: gRPC's own, OpenSSL's, and ones that speak no TLS."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import pytest

from plait.system.address import Address
from plait.trust import diagnose
from plait.trust.diagnose import explain
from plait.trust.keys import Authority, certificate_pem, moment, read_certificate, read_key
from plait.trust.kit import ServerKit

Serve = Callable[..., int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a gRPC server from a kit (its port), or one without TLS."""
    servers: list[grpc.Server] = []

    def start(kit: Path | None, *, role: str = "server", clients_of: Path | None = None) -> int:
        server = grpc.server(ThreadPoolExecutor(1))
        servers.append(server)
        if kit is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            pair = ((kit / f"{role}.key").read_bytes(), (kit / f"{role}.crt").read_bytes())
            trusted = ((clients_of or kit) / "ca.crt").read_bytes()
            port = server.add_secure_port(
                "127.0.0.1:0", grpc.ssl_server_credentials([pair], trusted, require_client_auth=True)
            )
        server.start()
        return port

    yield start
    for server in servers:
        server.stop(None).wait()


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Accept connections and give each to a function; the port."""
    with ThreadPoolExecutor(1) as pool:
        listener = socket.create_server(("127.0.0.1", 0))
        done = threading.Event()
        listener.settimeout(0.05)

        def start(answer: Callable[[socket.socket], None]) -> int:
            def accept() -> None:
                while not done.is_set():
                    try:
                        connection, _ = listener.accept()
                    except TimeoutError:
                        continue
                    with connection:
                        connection.settimeout(5)
                        answer(connection)

            pool.submit(accept)
            return int(listener.getsockname()[1])

        yield start
        done.set()
    listener.close()


def reissue(kits: Path, *, start: datetime, role: str = "server", days: int = 30) -> None:
    """Give a kit a certificate of other dates."""
    authority = Authority.load(kits / "authority")
    kit = kits / "server" if role == "server" else kits / "clients" / "alice"
    key = read_key(kit / f"{role}.key").public_key()
    if role == "server":
        certificate = authority.issue_server(key, ["localhost"], now=start, days=days)
    else:
        certificate = authority.issue_member(key, "alice", now=start, days=days)
    (kit / f"{role}.crt").write_bytes(certificate_pem(certificate))


def openssl_server(kit: Path, *, clients_of: Path, alpn: bool = True) -> Callable[[socket.socket], None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kit / "server.crt", kit / "server.key")
    context.load_verify_locations(clients_of / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    if alpn:
        context.set_alpn_protocols(["h2"])

    def answer(connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as tls:
                tls.sendall(b"\0")
                tls.recv(1)
        except OSError:
            pass

    return answer


def test_a_server_that_answers_is_said_to_also_with_its_own_kit(kits, alice, serve):
    port = serve(kits / "server")
    for host, kit in (("localhost", alice), ("127.0.0.1", alice), ("localhost", ServerKit.load(kits / "server"))):
        assert explain(Address(host, port), kit).startswith(f"TLS with {host}:{port} works now")


def test_nothing_listening(alice):
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    assert explain(Address("127.0.0.1", port), alice).startswith(
        f"nothing listens at 127.0.0.1:{port} (connection refused)"
    )
    assert explain(Address("127.0.0.1", port), None).startswith("nothing listens")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 70 + ".org"])
def test_a_name_that_is_not_found(alice, host, monkeypatch):
    # The reserved domain never resolves; a machine without a name server says so at once, whichever way.
    assert explain(Address(host, 9440), alice).startswith(f"server's name '{host}' is not found (")


def test_a_network_that_swallows_packets_and_one_without_a_way(alice, monkeypatch):
    for error, start in (
        (TimeoutError("timed out"), "no answer from 10.1.2.3:9440 in 5 s"),
        (OSError(101, "Network is unreachable"), "no route to 10.1.2.3:9440 (Network is unreachable)"),
    ):

        def fail(*_arguments: object, error: OSError = error, **_options: object) -> socket.socket:
            raise error

        monkeypatch.setattr(socket, "create_connection", fail)
        assert explain(Address("10.1.2.3", 9440), alice).startswith(start)


@pytest.mark.parametrize(
    ("starts", "date", "says", "remedy"),
    [
        (-100, -70, "expired on", "renew the server's certificate"),
        (100, 99, "is valid from", "set this machine's clock"),
    ],
)
def test_a_server_of_another_time_says_its_date_and_the_clocks(kits, alice, serve, now, starts, date, says, remedy):
    reissue(kits, start=now + timedelta(days=starts))
    said = explain(Address("localhost", serve(kits / "server")), alice)
    assert f"{says} {moment(now + timedelta(days=date))}" in said
    assert f"the clock here shows {moment(now)[:10]}" in said
    assert remedy in said


def test_another_host_name_says_which_names_would_do(kits, alice, serve, now):
    reissue(kits, start=now)
    said = explain(Address("127.0.0.1", serve(kits / "server")), alice)
    assert "is for localhost, expected 127.0.0.1: connect by a name it has" in said


def test_a_server_of_another_authority_one_without_tls_and_a_client_that_poses_as_one(kits, foreign, alice, serve):
    port = serve(foreign / "server")
    said = explain(Address("localhost", port), alice)
    assert f"certificate of the server at localhost:{port} is not from this kit's authority" in said
    posing = serve(kits / "clients" / "bob", role="client")
    assert "is a client's, expected a server's" in explain(Address("localhost", posing), alice)
    plain = serve(None)
    assert explain(Address("localhost", plain), alice).startswith(f"localhost:{plain} does not speak TLS")
    assert "does not answer without TLS" in explain(Address("localhost", serve(kits / "server")), None)


def test_a_node_that_grpc_refuses(kits, foreign, alice, serve):
    said = explain(Address("localhost", serve(kits / "server", clients_of=foreign / "server")), alice)
    own = read_certificate(kits / "clients" / "alice" / "client.crt")
    assert "closed the connection after seeing this node's certificate" in said
    assert f"from {moment(own.not_valid_before_utc)} to {moment(own.not_valid_after_utc)}, the clock here shows" in said


def test_a_node_that_openssl_refuses_by_name(kits, foreign, alice, listen):
    port = listen(openssl_server(kits / "server", clients_of=foreign / "server"))
    assert "refuses this node's certificate (unknown ca); the certificate is valid from" in explain(
        Address("localhost", port), alice
    )


def test_an_own_certificate_that_has_expired_meanwhile(kits, alice, serve, now):
    port = serve(kits / "server")
    reissue(kits, start=now - timedelta(days=100), role="client")
    said = explain(Address("localhost", port), alice)
    assert said.startswith("this node's own kit cannot be used")
    assert f"client.crt' expired on {moment(now - timedelta(days=70))}, the clock here shows" in said


def test_something_that_accepts_and_says_nothing(alice, listen, monkeypatch):
    monkeypatch.setattr(diagnose, "_STEP_S", 0.2)
    port = listen(lambda connection: connection.recv(1 << 16) and connection.recv(1))
    assert "accepts connections but starts no TLS" in explain(Address("127.0.0.1", port), alice)
