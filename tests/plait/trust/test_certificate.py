from __future__ import annotations

from datetime import timedelta

import pytest

from plait.errors import ConfigError
from plait.trust.certificate import (
    check_dates,
    moment,
    read_certificate,
    read_key,
)
from plait.trust.keys import NodeKey


def test_a_certificate_holds_between_its_dates_and_an_error_has_its_date_and_the_clocks(kits):
    certificate = read_certificate(kits / "server" / "server.crt")
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    second = timedelta(seconds=1)
    for inside in (start, end):
        check_dates(certificate, what="it", now=inside, remedy="renew it")
    with pytest.raises(ConfigError) as late:
        check_dates(certificate, what="it", now=end + second, remedy="renew it")
    assert str(late.value) == f"it expired on {moment(end)}, the clock here says {moment(end + second)}: renew it"
    with pytest.raises(ConfigError, match=f"valid from {moment(start)} on, .* says {moment(start - second)}: set"):
        check_dates(certificate, what="it", now=start - second, remedy="renew it")


def test_what_is_no_certificate_or_no_tls_key_is_refused(tmp_path):
    (tmp_path / "x.crt").write_bytes(b"garbage")
    with pytest.raises(ConfigError, match="is not a certificate, expected one in PEM"):
        read_certificate(tmp_path / "x.crt")
    NodeKey.generate().save(tmp_path / "node.key")
    with pytest.raises(ConfigError, match="another kind, expected an ECDSA key"):
        read_key(tmp_path / "node.key")
    (tmp_path / "node.key").write_bytes(b"garbage")
    with pytest.raises(ConfigError, match="is not a private key"):
        read_key(tmp_path / "node.key")
