import pytest

from plait.errors import ConfigError
from plait.system.text import check_client_name, composed
from plait.trust.provision import check_server_names


@pytest.mark.parametrize("name", ["a", "a" * 64, "a..b", "Zoë", "李雷", "李" * 21])
def test_a_plain_name_passes(name):
    assert check_client_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "../etc", "/etc", "a\\b", "a b", "a\n", "a\x00", "a\x1b[2J", "u\u0308", "\uff11",
     "a" * 65, "a:b", "a*", "李" * 22, "\u0301a", "a\u202eb", "a\u200bb", "\u3164", "\ud800", "ﬁn", "a\u2028b",
     "x" * 1_000_000],
)  # fmt: skip
def test_a_name_that_could_leave_its_folder_or_fool_a_reader_is_refused_in_one_printable_line(name):
    with pytest.raises(
        ConfigError, match=r"expected letters and digits .* no dot in front, at most 64 bytes"
    ) as caught:
        check_client_name(name)
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 300


def test_the_two_ways_to_write_an_accent_are_one_name():
    assert check_client_name(composed("Zoe\u0308")) == "Zoë"


def test_server_names_are_dns_names_and_addresses_in_canonical_form():
    given = ["Fed.Example.org", "10.0.0.5", "2001:DB8:0::1", "fed.example.org", "my_host"]
    assert check_server_names(given) == ("fed.example.org", "10.0.0.5", "2001:db8::1", "my_host")


@pytest.mark.parametrize(
    "name",
    ["", "a b", "host:9440", "*.example.org", "10.0.0.300", "-x", "x.", "ü.org", "https://x", "a" * 64, "a." * 127],
)
def test_what_no_certificate_could_be_checked_against_is_refused(name):
    with pytest.raises(ConfigError, match="expected a DNS name"):
        check_server_names(["localhost", name])
    with pytest.raises(ConfigError, match="server name is missing"):
        check_server_names([])
