"""What an update must be before a rule may see it; every refusal has a code that ledger and client are told.

Knows nothing of transport; the bytes were bounded before they came here.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.adapters import AdapterState, Layout, check_finite
from plait.errors import PeerError
from plait.wire.envelope import Direction, Opened, open_envelope, read_header


class UpdateRefused(PeerError):  # noqa: N818 (a verdict, named as the ledger names it)
    """An update that the round goes on without.

    Attributes:
        reason: a short code, stable over versions.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Expected:
    """What the update of one client in one round has to say of itself."""

    run_id: bytes
    round: int
    client: str
    base_fingerprint: bytes
    spec_digest: bytes
    relative_to: bytes
    examples: int
    layout: Layout


def open_update(data: bytes, expected: Expected) -> Opened:
    """Decode an update and check everything that it claims.

    Raises:
        UpdateRefused: with the first reason found.
    """
    try:
        header = read_header(data, max_bytes=max_update_bytes(expected.layout))
    except PeerError as error:
        raise UpdateRefused("malformed", str(error)) from error
    if header.direction != Direction.UPDATE:
        raise UpdateRefused("direction", "envelope is a broadcast, expected an update")
    if header.client != expected.client:
        raise UpdateRefused("wrong-client", f"update is signed by {header.client!r}, expected {expected.client!r}")
    if header.round != expected.round:
        raise UpdateRefused("wrong-round", f"update is for round {header.round}, expected {expected.round}")
    for reason, what, got, wanted in (
        ("wrong-run", "run", header.run_id, expected.run_id),
        ("wrong-base", "base", header.base_fingerprint, expected.base_fingerprint),
        ("wrong-spec", "adapter spec", header.spec_digest, expected.spec_digest),
        ("wrong-reference", "adapter that the delta is relative to", header.relative_to, expected.relative_to),
    ):
        if got != wanted:
            raise UpdateRefused(reason, f"{what} is {got.hex()[:16]}, expected {wanted.hex()[:16]}")
    if header.examples != expected.examples:
        raise UpdateRefused("weight", f"update counts {header.examples} examples, expected {expected.examples}")
    try:
        opened = open_envelope(data, layout=expected.layout)
        check_finite(opened.delta)
    except PeerError as error:
        raise UpdateRefused("malformed", str(error)) from error
    return opened


def check_sum_finite(state: AdapterState) -> None:
    """Refuse an update that would overflow the adapter it is added to."""
    try:
        check_finite(state)
    except PeerError as error:
        raise UpdateRefused("overflow", str(error)) from error


def max_update_bytes(layout: Layout) -> int:
    """The most bytes that an update of this layout may have: exact float32 and 64 kB of everything else."""
    return 4 * layout.size + 65536
