from __future__ import annotations

import pytest

from client.address import ServerAddress
from plait.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("localhost:9440", "localhost", 9440, True),
        ("127.0.0.1:1", "127.0.0.1", 1, True),
        ("127.9.9.9:1", "127.9.9.9", 1, True),
        ("[::1]:9440", "::1", 9440, True),
        (" plait.example.org:65535 ", "plait.example.org", 65535, False),
        ("10.0.0.7:9440", "10.0.0.7", 9440, False),
        ("localhost.example.org:9440", "localhost.example.org", 9440, False),
    ],
)
def test_a_host_and_a_port_are_an_address(text: str, host: str, port: int, loopback: bool) -> None:
    address = ServerAddress.parse(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, loopback)
    assert str(address) == text.strip()


@pytest.mark.parametrize(
    "text",
    ["", "host", ":9440", "host:", "host:0", "host:65536", "host:9440x", "::1:9440", "http://host:9440", "a b:1",
     "host:9999999", "user@host:9440"],
)  # fmt: skip
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected HOST:PORT such as plait\.example\.org:9440"):
        ServerAddress.parse(text)
