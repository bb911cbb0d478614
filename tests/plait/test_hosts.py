import socket

import pytest

from plait.hosts import AllowedHosts

LOOPBACK = AllowedHosts.of("127.0.0.1", ["Models.Example.org"])
EVERYWHERE = AllowedHosts.of("0.0.0.0")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "models.example.org:1"]
)
def test_a_server_has_its_own_names_and_those_that_it_was_given(host: str) -> None:
    assert LOOPBACK.has(host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8000", "localhost.evil.example", "localhost@evil.example", "evil@localhost",
     "10.0.0.5", "0.0.0.0:8000", "[::1", "localhost/x", "127.0.0.1.evil.example", "\x00", "localhost:x@evil"],
)  # fmt: skip
def test_it_has_no_others(host: str) -> None:
    assert not LOOPBACK.has(host)


def test_a_server_on_all_addresses_may_be_called_by_any_address_but_by_no_other_name() -> None:
    assert all(map(EVERYWHERE.has, ["10.0.0.5:8000", "[fe80::1]:8000", socket.gethostname(), "localhost"]))
    assert not any(map(EVERYWHERE.has, ["evil.example", "10.0.0.5.evil.example", "10.0.0.5@evil.example"]))
    assert AllowedHosts.of("10.0.0.5").has("10.0.0.5:8000")
    assert not AllowedHosts.of("10.0.0.5").has("10.0.0.6:8000")


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("http://localhost:8000", True),
        ("http://localhost:3000", True),
        ("https://models.example.org", True),
        ("http://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://localhost@evil.example", False),
        ("null", False),
        ("", False),
        ("file://", False),
        ("http://6.6.6.6", False),
    ],
)
def test_pages_of_other_sites_may_send_nothing(origin: str, may: bool) -> None:
    assert LOOPBACK.has_origin(origin, "localhost:8000") is may
    assert EVERYWHERE.has_origin(origin, "localhost:8000") is (may and "models" not in origin)


def test_a_page_of_the_server_itself_may_whatever_address_it_came_from() -> None:
    assert EVERYWHERE.has_origin("http://10.0.0.5:8000", "10.0.0.5:8000")
    assert not EVERYWHERE.has_origin("http://10.0.0.6:8000", "10.0.0.5:8000")


def test_an_operator_can_allow_all() -> None:
    hosts = AllowedHosts.of("127.0.0.1", ["*"])
    assert hosts.has("evil.example")
    assert hosts.has_origin("http://evil.example", "localhost")
