"""A server and its colluders against one client of a masked sum, at any size: plait's own clients, without the ciphers.

What a client is asked for goes through `MaskingClient`; keys and shares are names. So what the server knows in the end
is a set of shares, and whose numbers it can tell apart follows by sums over graphs. A victim is read if its numbers are
in a sum of fewer honest clients than `World.least`. Knows no channel.
"""

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import lru_cache
from unittest import mock

import numpy as np

from plait.errors import PeerError
from plait.guarantees import COMPLETE, colluding
from plait.secagg import client as client_module
from plait.secagg.client import MaskingClient, Secrets
from plait.wire.masked_roster import MaskedAttempt, Offer, Roster
from tests.plait.secagg.graph_bound import failure_bits, mixing

SESSION = MaskedAttempt(bytes(16), "train", 1, bytes(16))
NONE, NO_FIGURES = np.zeros(0, np.uint8), np.zeros(0, np.uint64)
KEY, SEED, WHOLE = b"key", b"seed", b"whole"
VICTIM = 0
EVERYBODY = 100
"""The most clients that all run. Of more the victim and its neighbours do; the rest go along with every list once."""


@contextlib.contextmanager
def without_ciphers() -> Iterator[None]:
    """A signature is who signed and what; a parcel opens; masks are not added."""
    stubs: dict[str, object] = {
        "is_signed": lambda key, signature, text: signature == (key, text),
        "open_shares": lambda *given, **named: (KEY, SEED),
        "pair_key": lambda *given: bytes(32),
        "self_key": lambda *given: bytes(32),
        "add_masks": lambda *given: None,
        "parcel_key": lambda *given: b"opens",
        "whole_secret": lambda seed: WHOLE,
    }
    with mock.patch.multiple(client_module, **stubs):
        yield


def signer(place: int) -> Callable[[bytes], object]:
    return lambda text: (identity(place), text)


def identity(place: int) -> bytes:
    return place.to_bytes(32, "big")


@lru_cache(maxsize=2)
def roster_of(count: int, seed: int) -> Roster:
    session = replace(SESSION, attempt=hashlib.sha256(f"{count} {seed}".encode()).digest()[:16])
    offers = (Offer(f"{n:05}", identity(n), identity(n), identity(n), identity(n)) for n in range(count))
    return Roster(session, tuple(offers), 8, 1.0, 0, 0)


class World:
    """One roster, who of it colludes with the server, and what that has learned."""

    def __init__(self, count: int, colluding: int, *, around: int = 0, seed: int = 0) -> None:
        self.roster = roster_of(count, seed)
        self.session, self.count, self.threshold = self.roster.session, count, self.roster.threshold
        near, generator = self.near(VICTIM), np.random.default_rng(seed)
        # So many colluders around the victim, where there are clients elsewhere; the others anywhere.
        order = generator.permutation(near)[:around].tolist()
        order += generator.permutation(sorted(set(range(1, count)) - set(near))).tolist()
        self.colluders = set((order + [place for place in near if place not in order])[:colluding])
        self.honest = sorted(set(range(count)) - self.colluders)
        run = self.honest if count <= EVERYBODY else [VICTIM, *self.honest_near()[:64], *self.honest[-2:]]
        self.clients = {place: self._client(place) for place in run}
        self.views = dict[int, frozenset[int]]()  # with whom those who have masked did
        self.shares = defaultdict[tuple[int, bytes], set[int]](set)
        self.whole = set[int]()
        self.lists: list[tuple[set[int], frozenset[int]]] = []

    @property
    def least(self) -> int:
        """The fewest honest clients that a sum may tell of."""
        honest = max(2, self.threshold - len(self.colluders))
        return honest if self.count <= COMPLETE else min(honest, self.count // 2)

    def near(self, place: int) -> list[int]:
        return [each for each in self.roster.holders(place) if each != place]

    def honest_near(self) -> list[int]:
        return [each for each in self.near(VICTIM) if each not in self.colluders]

    def spare(self) -> int:
        """Clients that a list of survivors may leave out."""
        return self.count - self.threshold

    def _client(self, place: int) -> MaskingClient:
        own = Secrets(*[bytes(32)] * 4)
        return MaskingClient(f"{place:05}", self.session, own, self.roster, {place: (KEY, SEED)})

    def show_all(self, place: int) -> None:
        """Ask a client for the keys of all its parcels, in the names of their receivers."""
        for receiver in self.near(place) if place in self.clients else self.near(place)[:1]:
            with contextlib.suppress(PeerError):
                if place in self.clients:
                    self.clients[place], _ = self.clients[place].show(self.session, receiver)
                for what in (KEY, SEED):
                    self.shares[place, what].add(receiver)

    def mask(self, places: Collection[int], sharers: Collection[int]) -> None:
        """Tell clients who has shared, and take their masked numbers."""
        listed, here = tuple(sorted(sharers)), frozenset(sharers)
        for place in here.intersection(places):
            with contextlib.suppress(PeerError):
                if place in self.clients:
                    parcels = dict.fromkeys(here.intersection(self.near(place)), b"")
                    client, _ = self.clients[place].deliver(self.session, listed, parcels)
                    self.clients[place], *_ = client.masked(
                        self.session, NONE, NO_FIGURES, received=b"", sign=signer(place)
                    )
                self.views[place] = here

    def unmask(self, sharers: Collection[int], survivors: Collection[int], asked: Collection[int]) -> None:
        """Have a list signed by these and all colluders, and take the shares of those who give them."""
        shared, listed, alive = tuple(sorted(sharers)), tuple(sorted(survivors)), frozenset(survivors)
        text, masked = self.roster.survivors_text(shared, listed), self.roster.masked_text(shared)
        signatures = {place: signer(place)(text) for place in self.colluders & alive}
        for place in alive.intersection(asked):
            if place in self.clients:
                near = {each: self._said(each, masked) for each in self.near(place) if each in self.views}
                near |= {each: signer(each)(masked) for each in self.colluders.intersection(self.near(place))}
                with contextlib.suppress(PeerError):
                    self.clients[place], signatures[place] = self.clients[place].sign(
                        self.session, listed, near, signer(place)
                    )
            elif place in self.views:
                signatures[place] = signer(place)(text)
        if len(signatures) < self.threshold:
            return
        givers = signatures.keys() - self.colluders - self.clients.keys()
        self.lists.append((givers, alive))
        self.whole |= givers
        for place in signatures.keys() & self.clients.keys():
            with contextlib.suppress(PeerError):
                self.clients[place], given = self.clients[place].reveal(self.session, listed, signatures)
                for owner, share in given.items():
                    self.shares[owner, share].add(place)

    def _said(self, place: int, masked: bytes) -> object:
        """What an honest client signed with its numbers, for the sharers that it was told of."""
        client = self.clients.get(place)
        return signer(place)(self.roster.masked_text(client.sharers) if client else masked)

    def read(self) -> int:
        """Honest clients in the smallest sum with the victim's numbers that the server knows; 0 if there is none."""
        found, new = {VICTIM}, [VICTIM]
        while new and len(found) < self.least:
            one = new.pop()
            is_whole = one in self.whole or self.shares[one, WHOLE]
            if one not in self.views or not (is_whole or self._has(SEED, one)):
                return 0
            for other in self.views[one].intersection(self.near(one)) - self.colluders - found:
                if self._has(KEY, one) or self._has(KEY, other):
                    continue
                if one not in self.views.get(other, ()):
                    return 0
                found.add(other)
                new.append(other)
        return len(found)

    def _has(self, what: bytes, owner: int) -> bool:
        """Whether the server has enough shares of a secret."""
        holders = set(self.roster.holders(owner))
        found = self.colluders & holders | self.shares[owner, what]
        for givers, alive in self.lists:
            if (owner in alive) == (what == SEED):
                found |= givers & holders
        return len(found) >= self.roster.share_threshold(owner)


def shown_and_left_out(world: World) -> None:
    """The victim's neighbours show the keys of their parcels; the server goes on with the others."""
    gone = set(world.honest_near()[: world.spare()])
    for place in gone:
        world.show_all(place)
    everybody = range(world.count)
    left = set(everybody) - gone
    world.mask(world.honest, everybody)
    world.unmask(everybody, left, left - world.colluders)


def shown_and_listed(world: World) -> None:
    """The same, and the server says that they are in the sum."""
    for place in world.honest_near()[: world.spare()]:
        world.show_all(place)
    everybody = range(world.count)
    world.mask(world.honest, everybody)
    world.unmask(everybody, everybody, world.honest)


def cut_off(world: World) -> None:
    """The victim's neighbours are dropped once all have masked."""
    everybody = set(range(world.count))
    left = everybody - set(world.honest_near()[: world.spare()])
    world.mask(world.honest, everybody)
    world.unmask(everybody, left, left - world.colluders)


def two_lists(world: World) -> None:
    """Half of the clients sign a list with the victim, and half one without it."""
    everybody = set(range(world.count))
    world.mask(world.honest, everybody)
    half = -(-len(world.honest) // 2)
    world.unmask(everybody, everybody, world.honest[:half])
    world.unmask(everybody, everybody - {VICTIM}, world.honest[half:])


def two_views(world: World) -> None:
    """The victim hears of as few neighbours that shared as it takes, and these are dropped in the others' view."""
    everybody, near = set(range(world.count)), world.honest_near()
    friends = world.count - 1 - len(near) - len(world.colluders)
    told = world.roster.share_threshold(VICTIM) - 1 - (len(world.near(VICTIM)) - len(near))
    # The whole list must be long enough as well.
    told = max(told, world.threshold - 1 - len(world.colluders) - friends, 0)
    dropped = set(near[:told][: world.spare()])
    world.mask([VICTIM], everybody - set(near[told:]))
    world.mask([place for place in world.honest if place != VICTIM], everybody)
    left = everybody - dropped
    world.unmask(everybody, left, left - world.colluders - {VICTIM})


ATTACKS: tuple[Callable[[World], None], ...] = shown_and_left_out, shown_and_listed, cut_off, two_lists, two_views


def read_by(attack: Callable[[World], None], world: World) -> bool:
    """Whether the server reads the victim."""
    with without_ciphers():
        attack(world)
    return 0 < world.read() < world.least


def claims(count: int) -> Iterator[str]:
    """A complaint for each claim about rosters of this size that does not hold; empty for one that does."""
    most, is_complete, roster = colluding(count), count <= COMPLETE, roster_of(count, 0)
    promised = (count - 1) // 3 if is_complete else count // 10
    yield "" if most >= promised else f"{count} clients: {most} may collude, promised {promised}"
    if not is_complete:
        bits, slow = failure_bits(count, most), mixing(count, roster.digest)
        yield "" if bits < -80 else f"{count} clients, {most} collude: the server succeeds with chance 2^{bits:.0f}"
        yield "" if slow < 0.4 else f"{count} clients: few links join two parts of the graph ({slow:.2f})"
    # What a chance below 2^-80 leaves out is that all but one of so many holders collude.
    around = roster.share_threshold(VICTIM) - 2
    for colluders, attacks in ((0, (shown_and_left_out, cut_off)), (most, ATTACKS)):
        for attack in attacks:
            is_read = read_by(attack, World(count, colluders, around=around))
            yield f"{count} clients, {colluders} collude: {attack.__name__}" if is_read else ""
    # One more is too many; where so few collude that they cannot surround a client, more would have to.
    attack = two_lists if is_complete else cut_off
    is_read = read_by(attack, World(count, most + 1, around=around + 1))
    is_tight = is_complete or most >= around
    yield "" if is_read == is_tight else f"{count} clients, {most + 1} collude: {attack.__name__} {is_read}"
