import socket

import pytest

from plait.errors import ConfigError, MachineError
from server.address import Address


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:9440", "127.0.0.1", 9440, True),
        ("127.8.8.8:1", "127.8.8.8", 1, True),
        ("localhost:0", "localhost", 0, True),
        ("[::1]:9440", "::1", 9440, True),
        ("[::]:9440", "::", 9440, False),
        ("0.0.0.0:9440", "0.0.0.0", 9440, False),
        ("example.org:443", "example.org", 443, False),
        ("10.0.0.1:65535", "10.0.0.1", 65535, False),
    ],
)
def test_an_address_reads_as_it_is_written(text, host, port, loopback):
    address = Address.parse(text)

    assert (address.host, address.port, address.is_loopback, str(address)) == (host, port, loopback, text)


@pytest.mark.parametrize(
    "text", ["", "9440", ":9440", "host", "host:", "host:x", "host:65536", "a b:1", "::1:9440", "http://h:1"]
)
def test_anything_else_is_no_address(text):
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        Address.parse(text)


def test_a_taken_port_and_a_foreign_address_are_told_apart():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(MachineError, match="the port is taken"):
            Address("127.0.0.1", other.getsockname()[1]).check_free()
    with pytest.raises(ConfigError, match="no address of this machine"):
        Address("192.0.2.1", 9440).check_free()
    Address("127.0.0.1", 0).check_free()
