import socket

import pytest

from plait.errors import ConfigError, MachineError
from plait.system.address import Address, is_own_host


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("localhost:9440", "localhost", 9440, True),
        ("127.0.0.1:9440", "127.0.0.1", 9440, True),
        ("[::1]:9440", "::1", 9440, True),
        ("[::]:9440", "::", 9440, False),
        ("[fe80::1%eth0]:9440", "fe80::1%eth0", 9440, False),
        ("0.0.0.0:9440", "0.0.0.0", 9440, False),
        ("plait.example.org:443", "plait.example.org", 443, False),
        ("localhost.example.org:9440", "localhost.example.org", 9440, False),
        ("bücher.example:9440", "bücher.example", 9440, False),
    ],
)
def test_an_address_reads_as_it_is_written(text, host, port, loopback):
    address = Address.parse(f" {text} ")

    assert (address.host, address.port, address.is_loopback, str(address)) == (host, port, loopback, text)


@pytest.mark.parametrize(
    "text",
    ["", "9440", ":9440", "host", "host:", "host:x", "host:9440x", "host:٣", "host:65536", "host:9999999", "a b:1",
     "::1:9440", "[::1]", "[host]:1", "[127.0.0.1]:1", "[]:1", "http://host:9440", "user@host:9440", "x" * 9999],
)  # fmt: skip
@pytest.mark.parametrize("listening", [False, True])
def test_anything_else_is_refused_with_an_example(text, listening):
    with pytest.raises(ConfigError, match=r"^server is .{2,120}, expected HOST:PORT such as plait\.example\.org:9440"):
        Address.parse(text, what="server", listening=listening)


def test_port_0_is_for_servers_alone():
    assert Address.parse("localhost:0", listening=True) == Address("localhost", 0)
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        Address.parse("localhost:0")


def test_a_taken_port_and_a_foreign_address_are_told_apart():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(MachineError, match="the port is in use"):
            Address("127.0.0.1", other.getsockname()[1]).check_free()
    with pytest.raises(ConfigError, match="not an address of this machine"):
        Address("192.0.2.1", 9440).check_free()
    Address("127.0.0.1", 0).check_free()


OTHERS = (
    "", "evil.example", "evil.example:8000", "localhost.evil.example", "localhost@evil.example", "evil@localhost",
    "10.0.0.5", "0.0.0.0:8000", "[::1", "localhost/x", "127.0.0.1.evil.example", "\x00", "localhost:x@evil",
)  # fmt: skip


def test_names_of_loopback_are_this_machine_and_no_other_is():
    assert all(map(is_own_host, ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000")))
    assert not [host for host in OTHERS if is_own_host(host)]
