"""Asks a page with a door for a link, with the certificate of a kit."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import cast

from plait.adapters import Json
from plait.address import Address
from plait.errors import ConfigError, MachineError, PeerError
from plait.text import printable
from plait.trust import StaffKit

_PATIENCE_S = 30.0
_MOST_ANSWER_BYTES = 1 << 16
_MOST_SHOWN = 300


def ask_for_link(page: Address, kit: StaffKit, *, role: str, minutes: float) -> str:
    """A link to the page, for one use.

    Args:
        page: where it is served.
        kit: of whoever answers for the link.
        role: of whoever uses it.
        minutes: how long it is good.

    Raises:
        ConfigError: the page refuses.
        MachineError: it cannot be reached, or is not of this kit's federation.
        PeerError: what it answers is no answer.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(kit.directory / "ca.crt")
    context.load_cert_chain(kit.directory / f"{kit.role}.crt", kit.directory / f"{kit.role}.key")
    connection = http.client.HTTPSConnection(page.host, page.port, context=context, timeout=_PATIENCE_S)
    try:
        connection.request(
            "POST",
            "/api/links",
            body=json.dumps({"role": role, "minutes": minutes}),
            headers={"content-type": "application/json", "origin": f"https://{page}"},
        )
        response = connection.getresponse()
        status, body = response.status, response.read(_MOST_ANSWER_BYTES)
    except ssl.SSLCertVerificationError as error:
        raise MachineError(f"{page} is not a server of this kit's federation: {error.verify_message}") from error
    except (OSError, http.client.HTTPException) as error:
        raise MachineError(f"cannot ask {page} for a link, expected a page with a door there: {error}") from error
    finally:
        connection.close()
    try:
        answer: object = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise PeerError(f"{page} answers {status} without JSON, expected plait's page")
    said = cast("dict[str, Json]", answer)
    link = said.get("link")
    if status != http.client.OK or not isinstance(link, str):
        why = printable(str(said.get("error", "no reason")), limit=_MOST_SHOWN)
        raise ConfigError(f"{page} gives no link: {why}")
    return f"https://{page}/enter#{printable(link, limit=_MOST_SHOWN)}"
