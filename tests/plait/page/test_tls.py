"""The page's TLS: handshakes in memory, before and after the server's certificate was renewed."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plait.page.tls import tls_of
from plait.trust import provision


def shake_hands(server: ssl.SSLContext, kits: Path) -> tuple[bytes | None, bytes | None]:
    """The certificates that both ends have of each other, server's first."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(kits / "operators" / "olga" / "ca.crt")
    client.load_cert_chain(*(kits / "operators" / "olga" / f"operator.{kind}" for kind in ("crt", "key")))
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there, server_hostname="localhost"), server.wrap_bio(there, back, server_side=True)]
    for _ in range(4):
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[0].getpeercert(binary_form=True), ends[1].getpeercert(binary_form=True)


@pytest.fixture
def renew(tmp_path: Path) -> Callable[[], bytes]:
    """Issue the server's certificate again, as an operator does; gives it."""

    def issue() -> bytes:
        certificate = tmp_path / "server" / "server.crt"
        certificate.unlink(missing_ok=True)
        provision(tmp_path, [], ["localhost"], operators=["olga"], now=datetime.now(UTC))
        return ssl.PEM_cert_to_DER_cert(certificate.read_text())

    return issue


def test_a_renewed_certificate_is_served_without_a_restart(tmp_path: Path, renew: Callable[[], bytes]) -> None:
    first = renew()
    own = ssl.PEM_cert_to_DER_cert((tmp_path / "operators" / "olga" / "operator.crt").read_text())
    context = tls_of(tmp_path / "server")
    assert shake_hands(context, tmp_path) == (first, own)
    second = renew()
    assert first != second
    assert shake_hands(context, tmp_path) == (second, own), "its visitors are still asked for theirs"


def test_a_certificate_that_is_missing_or_half_copied_leaves_the_earlier_one(
    tmp_path: Path, renew: Callable[[], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    first = renew()
    context = tls_of(tmp_path / "server")
    path = tmp_path / "server" / "server.crt"
    whole = path.read_text()
    path.unlink()
    assert shake_hands(context, tmp_path)[0] == first
    path.write_text(whole[:200])
    assert shake_hands(context, tmp_path)[0] == shake_hands(context, tmp_path)[0] == first
    assert len(caplog.messages) == 2, "each is said once"
    second = renew()
    assert shake_hands(context, tmp_path)[0] == second
