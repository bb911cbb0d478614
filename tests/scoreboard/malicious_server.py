"""What a server may not get out of a masked sum: each attack goes to the clients' own code, and has to be refused.

Every attack would end with the numbers of a single client. Others look at the masks themselves: that they are as hard
to guess as their keys are long, and that clients who were sent different models have masks that do not cancel.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
from scoreboard.small_federation import borrowed

from plait.errors import PeerError
from plait.secagg import client as masking
from plait.secagg.client import MaskingClient
from plait.secagg.roster import Offer, Session
from plait.secagg.server import Collecting, agree, check_offer
from plait.trust.endorsement import Endorsement
from plait.trust.identity import is_vouched_for
from plait.trust.keys import NodeKey
from plait.trust.kit import ClientKit
from plait.trust.provision import provision

exchange = borrowed("features/secagg/test_exchange.py")
SESSION, RECEIVED = exchange.SESSION, exchange.RECEIVED
sealed_of = exchange.sealed_of
CLIENTS = 5
LEAST_MASKS = 64


class Federation(exchange.Federation):
    """Clients with the keys of provisioned kits, who know each other by the authority's certificate alone."""

    def __init__(self, count: int, **more: int) -> None:
        super().__init__(count, **more)
        self.kits = _kits(tuple(self.names))
        self.keys = {name: kit.node_key for name, kit in self.kits.items()}

    def vouch(self, offer: Offer) -> bool:
        return is_vouched_for(self.kits[self.names[0]].tls.authority, offer)

    def offer(self, name: str, session: Session = SESSION) -> Offer:
        key, own = self.keys[name], Endorsement.of(self.kits[name])
        self.clients[name], offer = self.clients[name].offer(
            session,
            identity=key.public_bytes,
            sign=key.sign,
            certificate=own.certificate,
            endorsement=own.signature,
        )
        check_offer(offer, name, session, self.vouch)
        return offer


@cache
def _kits(names: tuple[str, ...]) -> dict[str, ClientKit]:
    kept = Path(tempfile.mkdtemp(prefix="plait-kits-"))
    atexit.register(shutil.rmtree, kept, ignore_errors=True)
    provision(kept, names, ["localhost"], now=datetime.now(UTC))
    return {name: ClientKit.load(kept / "clients" / name) for name in names}


def attacks() -> Iterator[str]:
    """A complaint for each attack that a client went along with; empty for one that it refused."""
    for attack in (
        _both_shares,
        _two_lists,
        _swapped_survivors,
        _signatures_of_one,
        _second_unmasking,
        _earlier_round,
        _replayed_attempt,
        _abandoned_attempt,
        _second_update,
        _second_roster,
        _forged_keys,
        _sybils,
        _pair,
        _left_out,
        _sum_of_two,
    ):
        yield _refused(attack)
    yield from _masks()


def _refused(attack: Callable[[Federation], None]) -> str:
    with contextlib.suppress(PeerError):
        attack(Federation(CLIENTS))
        return f"a server got on with {attack.__name__.strip('_').replace('_', ' ')}"
    return ""


def _both_shares(federation) -> None:
    """The same client is asked for the share of a peer's seed, and then for that of its key."""
    sealed = sealed_of(federation)
    signatures = federation.sign(sealed, federation.names)
    federation.reveal(sealed, signatures, federation.names[:1])
    federation.reveal(exchange.without(sealed, CLIENTS - 1), signatures, federation.names[:1])


def _two_lists(federation) -> None:
    sealed = sealed_of(federation)
    federation.sign(sealed, federation.names[:1])
    federation.sign(exchange.without(sealed, CLIENTS - 1), federation.names[:1])


def _swapped_survivors(federation) -> None:
    sealed = sealed_of(federation)
    signatures = federation.sign(sealed, federation.names[:3])
    fewer = exchange.without(sealed, CLIENTS - 1)
    signatures |= federation.sign(fewer, federation.names[3:4])
    federation.reveal(fewer, signatures, federation.names[3:4])


def _signatures_of_one(federation) -> None:
    sealed = sealed_of(federation)
    (signature,) = federation.sign(sealed, federation.names[:1]).values()
    federation.reveal(sealed, dict.fromkeys(range(CLIENTS), signature), federation.names[:1])


def _unmasked(federation):
    sealed = sealed_of(federation)
    federation.reveal(sealed, federation.sign(sealed, federation.names), federation.names)


def _second_unmasking(federation) -> None:
    """The same round with one client less: the difference of two sums is its update."""
    _unmasked(federation)
    federation.roster(federation.names[:-1], replace(SESSION, attempt=b"b" * 16))


def _earlier_round(federation) -> None:
    _unmasked(federation)
    federation.roster(federation.names[:-1], replace(SESSION, attempt=b"b" * 16, round=SESSION.round - 1))


def _replayed_attempt(federation) -> None:
    sealed_of(federation)
    federation.offer(federation.names[0])


def _abandoned_attempt(federation) -> None:
    sealed = sealed_of(federation)
    signatures = federation.sign(sealed, federation.names)
    federation.roster(federation.names, replace(SESSION, attempt=b"b" * 16))
    federation.reveal(sealed, signatures, federation.names[:1])


def _second_update(federation) -> None:
    collecting = federation.share(federation.roster(federation.names), federation.names)
    federation.mask(collecting, federation.names)
    name = federation.names[0]
    exchange.masked(federation, federation.clients[name])


def _second_roster(federation) -> None:
    roster = federation.roster(federation.names)
    name = federation.names[0]
    federation.clients[name], _ = federation.clients[name].share(roster, federation.vouch)
    federation.clients[name].share(replace(roster, offers=roster.offers[:4]), federation.vouch)


def _forged_keys(federation) -> None:
    roster, stranger = federation.roster(federation.names), NodeKey.generate()
    forged = replace(roster.offers[4], encryption=b"\x09" + bytes(31), masking=b"\x0a" + bytes(31))
    forged = replace(forged, identity=stranger.public_bytes, signature=b"")
    forged = replace(forged, signature=stranger.sign(forged.signed(SESSION)))
    federation.clients[federation.names[0]].share(
        replace(roster, offers=(*roster.offers[:4], forged)), federation.vouch
    )


def _sybils(federation) -> None:
    """One honest client among clients that the server made up."""
    honest = federation.names[0]
    keys = {f"sybil-{number}": NodeKey.generate() for number in range(CLIENTS - 1)}
    made_up = [
        MaskingClient(name).offer(SESSION, identity=key.public_bytes, sign=key.sign)[1] for name, key in keys.items()
    ]
    roster = agree(SESSION, [federation.offer(honest), *made_up], bits=7, unit=0.5, size=16, figures=1)
    federation.clients[honest].share(roster, federation.vouch)


def _pair(federation) -> None:
    roster = federation.roster(federation.names)
    federation.clients[federation.names[0]].share(replace(roster, offers=roster.offers[:2]), federation.vouch)


def _left_out(federation) -> None:
    """Too few have shared: the others' masks could all be taken off."""
    roster = federation.roster(federation.names)
    collecting = Collecting(roster)
    for name in federation.names:
        federation.clients[name], parcels = federation.clients[name].share(roster, federation.vouch)
        collecting.add_parcels(name, parcels)
    collecting.close_sharing()
    parcels = collecting.parcels_for(0)
    federation.clients[federation.names[0]].deliver(SESSION, (0, 1), {1: parcels[1]})


def _sum_of_two(_: Federation) -> None:
    """Of three clients one is said to have left: each of the others' parts is the sum without its own."""
    federation = Federation(3)
    sealed = exchange.without(sealed_of(federation), *range(2, CLIENTS))
    federation.sign(sealed, federation.names[:1])


def _masks() -> Iterator[str]:
    """What the masks are made of."""
    made: list[bytes] = []
    add_masks = masking.add_masks
    masking.add_masks = lambda values, figures, masks, ring: (
        made.extend(mask.key for mask in masks), add_masks(values, figures, masks, ring),
    )  # fmt: skip
    try:
        while len(set(made)) < LEAST_MASKS and len(made) < 4 * LEAST_MASKS:
            sealed_of(Federation(CLIENTS, size=16))
    finally:
        masking.add_masks = add_masks
    keys = np.frombuffer(b"".join(sorted(set(made))[:LEAST_MASKS]), np.uint8).reshape(-1, 32)
    narrow = [at for at in range(32) if len(np.unique(keys[:, at])) < LEAST_MASKS // 4]
    yield "" if not narrow else f"{len(narrow)} of 32 bytes of {len(keys)} mask keys hardly differ"
    federation = Federation(CLIENTS)
    collecting = federation.share(federation.roster(federation.names), federation.names)
    federation.mask(collecting, federation.names[:-1])
    federation.mask(collecting, federation.names[-1:], received=b"e" * 32)
    sealed = collecting.seal()
    shares = federation.reveal(sealed, federation.sign(sealed, federation.names), federation.names)
    values, _ = sealed.unmask(shares, received=RECEIVED)
    wrong = float((values != federation.sum_of(federation.names)[0]).mean())
    yield "" if wrong > 0.9 else "the sum of clients that were sent two models is unmasked"
