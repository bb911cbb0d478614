import pytest

from plait.hosts import ANY, AllowedHosts

LOOPBACK = AllowedHosts(frozenset({"models.example.org"}))


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


def test_an_operator_can_allow_all() -> None:
    assert AllowedHosts(frozenset({ANY})).has("evil.example")
