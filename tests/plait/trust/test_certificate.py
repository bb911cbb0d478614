import ipaddress
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from plait.errors import ConfigError
from plait.trust.keys import (
    AUTHORITY_DAYS,
    Authority,
    NodeKey,
    check_dates,
    common_name,
    moment,
    new_key,
    read_certificate,
    read_key,
)


def test_a_certificate_holds_between_its_dates_and_an_error_has_its_date_and_the_clocks(kits):
    certificate = read_certificate(kits / "server" / "server.crt")
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    second = timedelta(seconds=1)
    for inside in (start, end):
        check_dates(certificate, what="it", now=inside, remedy="renew it")
    with pytest.raises(ConfigError) as late:
        check_dates(certificate, what="it", now=end + second, remedy="renew it")
    assert str(late.value) == f"it expired on {moment(end)}, the clock here shows {moment(end + second)}: renew it"
    with pytest.raises(ConfigError, match=f"valid from {moment(start)} on, .* shows {moment(start - second)}: set"):
        check_dates(certificate, what="it", now=start - second, remedy="renew it")


def test_what_is_no_certificate_or_no_tls_key_is_refused(tmp_path):
    (tmp_path / "x.crt").write_bytes(b"garbage")
    with pytest.raises(ConfigError, match="is not a certificate"):
        read_certificate(tmp_path / "x.crt")
    NodeKey.generate().save(tmp_path / "node.key")
    with pytest.raises(ConfigError, match="not an ECDSA key"):
        read_key(tmp_path / "node.key")


@pytest.fixture(scope="module")
def authority(now):
    return Authority.found(now=now)


def test_a_strict_verifier_accepts_server_and_client_for_their_own_purpose_only(authority, now):
    server = authority.issue_server(new_key().public_key(), ["fed.example.org", "10.0.0.5"], now=now, days=30)
    client = authority.issue_member(new_key().public_key(), "alice", now=now, days=30)
    policy = PolicyBuilder().store(Store([authority.certificate])).time(now)
    for subject in (x509.DNSName("fed.example.org"), x509.IPAddress(ipaddress.ip_address("10.0.0.5"))):
        chain = policy.build_server_verifier(subject).verify(server, [])
        assert chain == [server, authority.certificate]
        with pytest.raises(x509.verification.VerificationError):
            policy.build_server_verifier(subject).verify(client, [])
    client.verify_directly_issued_by(authority.certificate)
    usage = client.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert common_name(client) == "alice"


def test_an_authority_signs_no_other_authority(authority, now):
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    leaf = authority.issue_member(new_key().public_key(), "alice", now=now, days=1)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_it_lasts_ten_years_and_nothing_outlives_it(authority, now):
    assert authority.certificate.not_valid_after_utc == now + timedelta(days=AUTHORITY_DAYS)
    # Its members' hold on a clock that is a time zone off, too.
    first = authority.issue_member(new_key().public_key(), "alice", now=now, days=1)
    assert first.not_valid_before_utc <= now - timedelta(hours=14)
    later = now + timedelta(days=AUTHORITY_DAYS - 10)
    leaf = authority.issue_member(new_key().public_key(), "alice", now=later, days=10)
    assert leaf.not_valid_after_utc == authority.certificate.not_valid_after_utc
    with pytest.raises(ConfigError, match="days is 11, expected 1 to 10"):
        authority.issue_member(new_key().public_key(), "alice", now=later, days=11)
    with pytest.raises(ConfigError, match="authority expired on"):
        authority.issue_member(new_key().public_key(), "alice", now=later + timedelta(days=11), days=1)


def test_a_saved_authority_loads_as_itself_and_mixed_files_are_refused(authority, now, tmp_path):
    authority.save(tmp_path)
    assert Authority.load(tmp_path) == authority
    (tmp_path / "ca.key").unlink()
    (tmp_path / "other").mkdir()
    Authority.found(now=now).save(tmp_path / "other")
    (tmp_path / "other" / "ca.key").rename(tmp_path / "ca.key")
    with pytest.raises(ConfigError, match=r"ca.crt' is not for the key beside it"):
        Authority.load(tmp_path)
