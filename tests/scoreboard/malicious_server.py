"""What a server may not get out of a masked sum: each attack goes to the clients' own code, and has to be refused.

Every attack would end with the numbers of a single client; they are those of `tests/plait/secagg/test_exchange.py`,
with the keys of provisioned kits. Others look at the masks themselves: that they are as hard
to guess as their keys are long, and that clients who were sent different models have masks that do not cancel.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from functools import cache
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from scoreboard.small_federation import borrowed, tests_in

from plait.secagg import client as masking
from plait.secagg.server import check_offer
from plait.trust.keys import NodeIdentity
from plait.trust.kit import ClientKit, Endorsement, is_vouched_for
from plait.trust.provision import provision
from plait.wire.masked_roster import MaskedAttempt, Offer

exchange = borrowed("plait/secagg/test_exchange.py")
SESSION = exchange.SESSION
sealed_of = exchange.sealed_of
CLIENTS = 5
LEAST_MASKS = 64


class Federation(exchange.Federation):
    """Clients with the keys of provisioned kits, who know each other by the authority's certificate alone."""

    def __init__(self, count: int, **more: int) -> None:
        super().__init__(count, **more)
        self.kits = _kits(tuple(self.names))
        self.keys = {name: kit.node_key for name, kit in self.kits.items()}
        self.authority = self.kits[self.names[0]].tls.authority

    def vouch(self, client: str, *proof: bytes) -> bool:
        return self._is_made_up(client) or is_vouched_for(self.authority, client, *proof)

    def offer(self, name: str, session: MaskedAttempt = SESSION) -> Offer:
        if self._is_made_up(name):
            return super().offer(name, session)
        key, own = self.keys[name], Endorsement.of(self.kits[name])
        identity = NodeIdentity(key.public_bytes, key.sign, self.vouch, own.certificate, own.signature)
        self.clients[name], offer = self.clients[name].offer(session, identity)
        check_offer(offer, name, session, self.vouch)
        return offer

    def _is_made_up(self, name: str) -> bool:
        """Whether it is a client of whom the server has made the key."""
        return name in self.keys and name not in self.kits


@cache
def _kits(names: tuple[str, ...]) -> dict[str, ClientKit]:
    kept = Path(tempfile.mkdtemp(prefix="plait-kits-"))
    atexit.register(shutil.rmtree, kept, ignore_errors=True)
    provision(kept, names, ["localhost"], now=datetime.now(UTC))
    return {name: ClientKit.load(kept / "clients" / name) for name in names}


def attacks() -> Iterator[str]:
    """A complaint for each attack that a client went along with; empty for one that it refused."""
    exchange.Federation = Federation
    wrong: dict[str, str] = {}
    for name, test, parameters in tests_in(vars(exchange.TestMaliciousServer)):
        attack = name.partition(" ")[0]
        wrong.setdefault(attack, "")
        try:
            test(None, **_given(signature(test).parameters, parameters))
        # What `pytest.raises` says is no Exception.
        except (Exception, pytest.fail.Exception) as error:
            wrong[attack] = f"{name}: {type(error).__name__} {error}"
    yield from wrong.values()
    yield from _masks()


def _given(names: Collection[str], case: dict[str, object]) -> dict[str, object]:
    """What the fixtures of a test give."""
    federation = Federation(CLIENTS)
    given: dict[str, object] = {"federation": federation, **case}
    if "sealed" in names:
        return given | {"sealed": sealed_of(federation)}
    if set(names) & {"roster", "shared", "collecting"}:
        roster = federation.roster(federation.names)
        made = {"roster": lambda: roster, "shared": lambda: federation.undelivered(roster, federation.names),
                "collecting": lambda: federation.share(roster, federation.names)}  # fmt: skip
        given |= {name: make() for name, make in made.items() if name in names}
    return {name: given[name] for name in names if name != "self"}


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
    try:
        exchange.test_masks_of_clients_that_were_sent_another_model_do_not_cancel(
            federation, federation.share(federation.roster(federation.names), federation.names)
        )
    except AssertionError:
        yield "the sum of clients that were sent two models is unmasked"
    else:
        yield ""
