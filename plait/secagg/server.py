"""The server's part in a masked sum: collect, stage by stage, and take the masks off the sum.

    offers    -> roster            at least three clients
    parcels   -> sharers           at least two thirds of the roster, and three
    masked    -> survivors         likewise; only their sum and their signatures are kept
    signed    -> signatures        likewise
    shares    -> sum               enough shares of each secret

A client whose answer is refused, or that gives none, is a dropout of its stage. The caller stores the `SealedSum`
before it asks for signatures: from it the same sum follows after a crash. Where clients cannot open the shares of
another, the accused shows the key of the first one's parcel, and masks nothing in that attempt.
"""

import contextlib
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from plait.adapters.safetensors import decode_arrays, encode_arrays
from plait.errors import PeerError
from plait.secagg.client import pair_key, self_key
from plait.trust.keys import Vouch
from plait.trust.masks import SECRET_BYTES, Mask, Residues, Ring, add_masks, check_share, combine, public_of
from plait.wire.masked_roster import (
    AS_HEX,
    PARCEL_BYTES,
    MaskedAttempt,
    Offer,
    Roster,
    can_be_opened,
    digests_in,
    is_signed,
)


class TooFewError(PeerError):
    """Fewer clients than the threshold are left: the attempt is over and nothing was unmasked.

    Attributes:
        declined: those whose sum some of them would not help to unmask: with sums in journals it reveals few clients.
    """

    def __init__(self, message: str, *, count: int = 0) -> None:
        super().__init__(message)
        self.count = count
        self.declined: frozenset[str] = frozenset()


class LostError(PeerError):
    """The masks of this sum cannot be removed, because of what `client` shared; no other may follow in its round."""

    def __init__(self, message: str, *, client: str) -> None:
        super().__init__(message)
        self.client = client


def check_offer(offer: Offer, client: str, session: MaskedAttempt, vouch: Vouch) -> None:
    """Refuse keys that are not the asked client's."""
    if offer.client != client:
        raise PeerError(f"keys are offered by {offer.client!a}, expected {client!a}")
    offer.check(session, vouch)


class Collecting:
    """From a roster to a sealed sum; `sharers` are the places of the clients that shared."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self.sharers: tuple[int, ...] = ()
        self._parcels: dict[int, Mapping[int, bytes]] = {}
        ring = Ring(roster.bits)
        self._sum, self._figures = ring.zeros(roster.size), np.zeros(roster.figures, np.uint64)
        self._masked: dict[int, bytes] = {}

    def add_parcels(self, client: str, parcels: Mapping[int, bytes]) -> None:
        """Take a client's encrypted shares."""
        place = self.roster.place(client)
        if self.sharers or place in self._parcels:
            raise PeerError(f"shares of {client!a} came late or twice")
        if set(parcels) | {place} != set(self.roster.holders(place)) or place in parcels:
            raise PeerError(f"{client!a} has not one share for each of its neighbours")
        if any(len(parcel) != PARCEL_BYTES for parcel in parcels.values()):
            raise PeerError(f"a share of {client!a} has another size, expected {PARCEL_BYTES} bytes")
        self._parcels[place] = parcels

    def close_sharing(self) -> "Collecting":
        """It, with those who shared fixed; too few may have, of all or of one's neighbours."""
        self._enough(len(self._parcels), "shared")
        self.sharers = tuple(sorted(self._parcels))
        self._enough_holders(self._parcels, "shared")
        return self

    def parcels_for(self, place: int) -> Mapping[int, bytes]:
        """What its neighbours encrypted to a client."""
        holders = (holder for holder in self.roster.holders(place) if holder != place and holder in self._parcels)
        return {holder: self._parcels[holder][place] for holder in holders}

    def is_readable(self, sender: int, receiver: int, key: bytes) -> bool:
        """Whether a client encrypted shares to another, by the key that it shows for that."""
        return can_be_opened(self._parcels[sender][receiver], key, self.roster, sender=sender, receiver=receiver)

    def add_masked(self, client: str, values: Residues, figures: NDArray[np.uint64], signature: bytes) -> None:
        """Add a client's masked numbers, which its neighbours count as such by its signature."""
        place = self.roster.place(client)
        if place not in self.sharers or place in self._masked:
            raise PeerError(f"masked update of {client!a} came twice or without shares")
        if (values.size, figures.size) != (self.roster.size, self.roster.figures):
            raise PeerError(f"masked update of {client!a} has {values.size} numbers, expected {self.roster.size}")
        if not is_signed(self.roster.offers[place].identity, signature, self.roster.masked_text(self.sharers)):
            raise PeerError(f"masked update of {client!a} is not signed for these sharers")
        self._masked[place] = signature
        self._sum += values
        self._figures += figures

    def seal(self) -> "SealedSum":
        """Fix the survivors; they would sign no list with too few of their neighbours."""
        self._enough(len(self._masked), "sent a masked update")
        self._enough_holders(self._masked, "sent a masked update")
        values = Ring(self.roster.bits).reduced(self._sum)
        parcels = ((place, *each) for place in self.sharers for each in sorted(self._parcels[place].items()))
        digests = {(place, holder): digests_in(parcel) for place, holder, parcel in parcels}
        masked = dict(sorted(self._masked.items()))
        return SealedSum(self.roster, self.sharers, masked, values, self._figures, digests)

    def _enough_holders(self, here: Collection[int], did: str) -> None:
        """Of each one's shares, or they cannot be given."""
        for place in self.sharers:
            count = sum(holder in here for holder in self.roster.holders(place))
            if count < (least := self.roster.share_threshold(place)):
                name = self.roster.offers[place].client
                raise TooFewError(f"{count} holders of the shares of {name!a} {did}, expected at least {least}")

    def _enough(self, count: int, did: str) -> None:
        if count < self.roster.threshold:
            raise TooFewError(f"{count} clients {did}, expected at least {self.roster.threshold}", count=count)


@dataclass(frozen=True, eq=False)
class SealedSum:
    """A sum under masks whose clients are fixed, by their places: `masked` has their signatures, in their order.

    `digests` are of the shares of each sharer's masking key and seed, by its place and their holder's.
    """

    roster: Roster
    sharers: tuple[int, ...]
    masked: Mapping[int, bytes]
    values: Residues
    figures: NDArray[np.uint64]
    digests: Mapping[tuple[int, int], tuple[bytes, bytes]]

    @cached_property
    def survivors(self) -> tuple[int, ...]:
        """Those whose numbers are in the sum."""
        return tuple(self.masked)

    @property
    def clients(self) -> tuple[str, ...]:
        """The names of those in the sum."""
        return tuple(self.roster.offers[place].client for place in self.survivors)

    def neighbours_of(self, client: str) -> Mapping[int, bytes]:
        """The signatures of those whose numbers are in the sum and who are this client's neighbours."""
        place = self.roster.place(client)
        return {each: self.masked[each] for each in self.roster.holders(place) if each in self.masked and each != place}

    def check_signature(self, client: str, signature: bytes) -> None:
        """Refuse a signature that no client would accept."""
        offer = self.roster.offers[self.roster.place(client)]
        if not is_signed(offer.identity, signature, self.roster.survivors_text(self.sharers, self.survivors)):
            raise PeerError(f"signature of {client!a} is not on this list of survivors")

    def check_shares(self, client: str, shares: Mapping[int, bytes]) -> None:
        """Refuse shares that a client does not hold."""
        place = self.roster.place(client)
        expected = set(self.roster.holders(place)) & set(self.sharers)
        if place not in self.survivors or set(shares) != expected:
            raise PeerError(f"{client!a} gives {len(shares)} shares, expected one of each of {len(expected)} clients")
        for owner, share in shares.items():
            check_share(share)
            is_own, name = owner == place, self.roster.offers[owner].client
            digest = self.digests.get((owner, place), (b"", b""))[owner in self.survivors]
            if not is_own and hashlib.sha256(share).digest() != digest:
                raise PeerError(f"{client!a} gives another share of {name!a} than it holds")

    def unmask(
        self, shares: Mapping[int, Mapping[int, bytes]], *, received: bytes
    ) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """The sum of the survivors' numbers, and of their figures, by checked shares of givers, then of owners."""
        alive, roster = set(self.survivors), self.roster
        masks: list[Mask] = []
        for place in self.sharers:
            secret = self._secret(place, shares, is_seed=place in alive)
            if place in alive:
                masks.append(Mask(self_key(secret, roster, received), -1))
                continue
            for other in roster.holders(place):
                if other in alive:
                    key = pair_key(secret, roster.offers[other].masking, roster, received)
                    masks.append(Mask(key, -1 if other < place else 1))
        values, figures = self.values.copy(), self.figures.copy()
        add_masks(values, figures, masks, Ring(roster.bits))
        return Ring(roster.bits).lifted(values), figures

    def _secret(self, place: int, shares: Mapping[int, Mapping[int, bytes]], *, is_seed: bool) -> bytes:
        """A client's seed or masking key: as it gives it, or of its shares."""
        roster = self.roster
        whole = shares.get(place, {}).get(place, b"")[-SECRET_BYTES:]
        if is_seed and hashlib.sha256(whole).digest() == roster.offers[place].commitment:
            return whole
        offer, threshold = roster.offers[place], roster.share_threshold(place)
        points = {holder: point for point, holder in enumerate(roster.holders(place), start=1)}
        found = {
            points[giver]: given[place]
            for giver, given in shares.items()
            if giver != place and place in given and giver in points
        }
        if len(found) < threshold:
            raise TooFewError(f"{len(found)} shares of a secret of {offer.client!a} are here, expected {threshold}")
        with contextlib.suppress(PeerError):
            secret = combine(found, threshold=threshold)
            if is_seed and hashlib.sha256(secret).digest() == offer.commitment:
                return secret
            if not is_seed and public_of(secret) == offer.masking:
                return secret
        raise LostError(f"{len(found)} shares of a secret of {offer.client!a} do not give it", client=offer.client)


def check_complaint(roster: Roster, sharers: Sequence[int], client: str, places: Sequence[int]) -> None:
    """Refuse a complaint about others than those that sent a client something."""
    roster.check_places(places, "clients whose shares cannot be opened")
    me = roster.place(client)
    if not set(places) <= (set(roster.holders(me)) & set(sharers)) - {me}:
        raise PeerError(f"{client!a} complains about shares of clients that sent it none")


def accused_by(complaints: Mapping[int, Sequence[int]]) -> Mapping[int, int]:
    """The first place that cannot open what a client sent, by the place of that client."""
    return {sender: place for place, senders in sorted(complaints.items(), reverse=True) for sender in senders}


def judge(
    collecting: Collecting, accused: Mapping[int, int], shown: Mapping[int, bytes]
) -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
    """Places to blame, never none: senders whose shares cannot be opened, false accusers, and who showed no key."""
    cleared = {each for each, key in shown.items() if collecting.is_readable(each, accused[each], key)}
    accusers = frozenset(accused[sender] for sender in cleared)
    return frozenset(shown.keys() - cleared), accusers, frozenset(accused.keys() - shown.keys())


_SIGNATURES = TypeAdapter(Sequence[Mapping[int, bytes]], config=AS_HEX)
_CLIENTS = TypeAdapter(list[tuple[Roster, tuple[int, ...], Mapping[int, bytes]]], config=AS_HEX)


def signatures_to_bytes(groups: Sequence[Mapping[int, bytes]]) -> bytes:
    """Signatures by place, of each group."""
    return _SIGNATURES.dump_json(groups)


def signatures_from_bytes(data: bytes) -> Sequence[Mapping[int, bytes]]:
    """The inverse of `signatures_to_bytes`."""
    try:
        return _SIGNATURES.validate_json(data)
    except ValidationError as error:
        raise PeerError("the stored signatures of a round are damaged") from error


def sealed_to_bytes(groups: Sequence[SealedSum]) -> bytes:
    """The sealed sums of all groups."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for number, sealed in enumerate(groups):
        digests = (digest for pair in sealed.digests.values() for digest in pair)
        arrays[f"values-{number}"] = sealed.values.astype(np.uint32)
        arrays[f"figures-{number}"] = sealed.figures.view(np.int64)
        arrays[f"digests-{number}"] = np.frombuffer(b"".join(digests), "<u4")
    clients = _CLIENTS.dump_json([(sealed.roster, sealed.sharers, sealed.masked) for sealed in groups])
    return encode_arrays(arrays, {"sealed": clients.decode()})


def sealed_from_bytes(data: bytes) -> list[SealedSum]:
    """The inverse of `sealed_to_bytes`."""
    sealed: list[SealedSum] = []
    try:
        arrays, metadata = decode_arrays(data)
        for number, (roster, sharers, masked) in enumerate(_CLIENTS.validate_json(metadata["sealed"])):
            held = ((place, each) for place in sharers for each in roster.holders(place) if each != place)
            digests = arrays[f"digests-{number}"].astype("<u4").reshape(-1, 2, 8)
            of = {pair: (key.tobytes(), seed.tobytes()) for pair, (key, seed) in zip(held, digests, strict=True)}
            values = arrays[f"values-{number}"].astype(Ring(roster.bits).dtype)
            figures = arrays[f"figures-{number}"].astype(np.int64).view(np.uint64)
            sealed.append(SealedSum(roster, sharers, masked, values, figures, of))
    except (KeyError, ValueError, TypeError) as error:
        raise PeerError("the stored sum under masks is damaged") from error
    return sealed
