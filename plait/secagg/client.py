"""A client's part in a masked sum, as a value that goes from stage to stage; knows no channel, no file and no model.

After Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017), against a
malicious server: (1) a client unmasks a run's purpose and round once, and an attempt takes two thirds of its roster;
(2) which of a peer's two shares is given follows from a list that two thirds have signed, each only one; (3) it signs
only lists in which enough of its neighbours are, and these have signed that they masked with the same clients (see
`plait.wire.masked_roster`); (4) it shows one key per attempt, and then masks nothing in it; (5) keys that the authority
does not vouch for are refused. The caller stores the value before it sends an answer.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from plait.errors import PeerError
from plait.trust.keys import KEY_BYTES, NodeIdentity, Vouch, derived
from plait.trust.masks import Mask, Residues, Ring, add_masks, agreed, public_of, split, whole_secret
from plait.wire.masked_roster import (
    AS_HEX,
    MaskedAttempt,
    Offer,
    Roster,
    is_signed,
    open_shares,
    parcel_key,
    seal_shares,
)


@dataclass(frozen=True)
class Secrets:
    """A client's secrets of one attempt.

    X25519 keys that shares are encrypted to and that masks are agreed with, the seed of its own mask, and the key of
    what it adds to its numbers, of which no other client has a share.
    """

    encryption: bytes = field(repr=False)
    masking: bytes = field(repr=False)
    seed: bytes = field(repr=False)
    noise: bytes = field(repr=False)


@dataclass(frozen=True)
class MaskingClient:
    """Where a client stands.

    Attributes:
        own: secrets of the current attempt; gone once it has revealed its shares.
        held: both shares of each neighbour that shared, and of itself, by place.
        sharers: places of all clients that shared.
        has_masked: whether its numbers are under way.
        received: digest of the adapter that they were made from.
        signed: places of the survivors that it signed.
        revealed: its answer to the unmasking, by place.
        closed: the last round that was unmasked, by run and purpose.
    """

    __pydantic_config__ = AS_HEX

    client: str
    session: MaskedAttempt | None = None
    own: Secrets | None = None
    roster: Roster | None = None
    held: Mapping[int, tuple[bytes, bytes]] = field(default_factory=dict[int, tuple[bytes, bytes]], repr=False)
    sharers: tuple[int, ...] = ()
    has_masked: bool = False
    received: bytes = b""
    signed: tuple[int, ...] = ()
    revealed: Mapping[int, bytes] | None = field(default=None, repr=False)
    closed: Mapping[str, int] = field(default_factory=dict[str, int])

    def offer(self, session: MaskedAttempt, identity: NodeIdentity) -> tuple[MaskingClient, Offer]:
        """Begin an attempt; the secrets of the one before are gone."""
        if session.round <= self.closed.get(session.series, -1):
            raise PeerError(
                f"round {session.round} was unmasked before ({session.purpose}): a second "
                "unmasking could show what one client sent"
            )
        if self.session == session:
            raise PeerError("this attempt was begun before")
        own = Secrets(*(secrets.token_bytes(KEY_BYTES) for _ in fields(Secrets)))
        commitment = hashlib.sha256(own.seed).digest()
        keys = public_of(own.encryption), public_of(own.masking)
        offer = Offer(
            self.client,
            identity.public_key,
            *keys,
            commitment,
            certificate=identity.certificate,
            endorsement=identity.endorsement,
        )
        offer = replace(offer, signature=identity.sign(offer.signed(session)))
        return MaskingClient(self.client, session, own, closed=self.closed), offer

    def share(self, roster: Roster, vouch: Vouch) -> tuple[MaskingClient, Mapping[int, bytes]]:
        """Shares of its secrets for its neighbours, encrypted, by place."""
        own = self._own(roster.session)
        if self.roster is not None:
            raise PeerError("a second roster was sent in this attempt")
        roster.check(vouch)
        me = roster.place(self.client)
        mine = roster.offers[me]
        if (mine.encryption, mine.masking) != (public_of(own.encryption), public_of(own.masking)):
            raise PeerError(f"the roster has other keys for {self.client!a}, expected those that it offered")
        holders, threshold = roster.holders(me), roster.share_threshold(me)
        both = (split(secret, threshold=threshold, count=len(holders)) for secret in (own.masking, own.seed))
        shares = dict(zip(holders, zip(*both, strict=True), strict=True))
        parcels = {
            place: seal_shares(pair, parcel_key(own.encryption, roster, place), roster, sender=me, receiver=place)
            for place, pair in shares.items()
            if place != me
        }
        return replace(self, roster=roster, held={me: shares[me]}), parcels

    def deliver(
        self, session: MaskedAttempt, sharers: Sequence[int], parcels: Mapping[int, bytes]
    ) -> tuple[MaskingClient, tuple[int, ...]]:
        """Take the neighbours' shares, or give the places whose parcels cannot be opened.

        With one of these it stands where it was: it has no share to give, so nothing of it is masked in this attempt.
        """
        own, roster = self._own(session), self._agreed(session)
        if self.sharers:
            raise PeerError("shares were delivered twice in this attempt")
        roster.check_places(sharers, "clients that shared")
        me = roster.place(self.client)
        if me not in sharers or len(sharers) < roster.threshold:
            raise PeerError(
                f"{len(sharers)} clients shared, expected at least {roster.threshold}, and {self.client!a} among them"
            )
        expected = set(roster.holders(me)) & set(sharers) - {me}
        if set(parcels) != expected or len(expected) + 1 < roster.share_threshold(me):
            raise PeerError(f"{len(parcels)} shares were delivered, expected one of each neighbour that shared")
        held, unreadable = dict(self.held), list[int]()
        for place, parcel in sorted(parcels.items()):
            try:
                held[place] = open_shares(parcel, own.encryption, roster, sender=place)
            except PeerError:
                unreadable.append(place)
        if unreadable:
            return self, tuple(unreadable)
        return replace(self, held=held, sharers=tuple(sharers)), ()

    def show(self, session: MaskedAttempt, receiver: int) -> tuple[MaskingClient, bytes]:
        """The key of the parcel to this place, at the end of an attempt in which it sends no numbers."""
        own, roster = self._own(session), self._agreed(session)
        if self.has_masked:
            raise PeerError("the key of shares is requested after the masked update was sent")
        me = roster.place(self.client)
        if receiver == me or receiver not in roster.holders(me):
            raise PeerError("the key of shares is requested for a client that is not a neighbour")
        return replace(self, own=None, held={}), parcel_key(own.encryption, roster, receiver)

    def masked(
        self,
        session: MaskedAttempt,
        values: Residues,
        figures: NDArray[np.uint64],
        *,
        received: bytes,
        sign: Callable[[bytes], bytes],
    ) -> tuple[MaskingClient, Residues, NDArray[np.uint64], bytes]:
        """Its (size,) residues of the ring, and its figures modulo 2^64, under masks; signed with who shared."""
        own, roster = self._own(session), self._agreed(session)
        if self.has_masked or not self.sharers:
            raise PeerError("a masked update is requested twice, or before the shares were delivered")
        if (values.size, figures.size) != (roster.size, roster.figures):
            raise PeerError(f"update has {values.size} numbers, expected {roster.size} as in the roster")
        me = roster.place(self.client)
        masks = [Mask(self_key(own.seed, roster, received), 1)]
        for place in self.held:
            if place != me:
                key = pair_key(own.masking, roster.offers[place].masking, roster, received)
                masks.append(Mask(key, 1 if me < place else -1))
        values, figures = values.copy(), figures.copy()
        add_masks(values, figures, masks, Ring(roster.bits))
        signature = sign(roster.masked_text(self.sharers))
        return replace(self, has_masked=True, received=received), values, figures, signature

    def noise_key(self, session: MaskedAttempt, numbers: bytes) -> bytes:
        """The key of noise to add before `masked`: of this attempt, and of no other numbers.

        An attempt has one answer, so no numbers are noised twice and no noise is used twice, whatever is killed.
        """
        own, roster = self._own(session), self._agreed(session)
        if self.has_masked:
            raise PeerError("noise is requested after the masked update was sent")
        return derived(own.noise, b"noise", roster.digest, numbers)

    def sign(
        self,
        session: MaskedAttempt,
        survivors: Sequence[int],
        masked: Mapping[int, bytes],
        sign: Callable[[bytes], bytes],
    ) -> tuple[MaskingClient, bytes]:
        """Its signature on the list of survivors, by its neighbours' of `masked`; the same list may be shown again."""
        roster = self._agreed(session)
        roster.check_places(survivors, "survivors")
        if not self.has_masked or roster.place(self.client) not in survivors:
            raise PeerError(f"{self.client!a} is not among the survivors")
        if not set(survivors) <= set(self.sharers):
            raise PeerError("the survivors include a client that did not share")
        if len(survivors) < roster.threshold:
            raise PeerError(f"{len(survivors)} clients survived, expected at least {roster.threshold}")
        self._check_neighbours(roster, survivors, masked)
        if self.signed and self.signed != tuple(survivors):
            raise PeerError("another list of survivors was signed in this attempt")
        signature = sign(roster.survivors_text(self.sharers, survivors))
        return replace(self, signed=tuple(survivors)), signature

    def reveal(
        self, session: MaskedAttempt, survivors: Sequence[int], signatures: Mapping[int, bytes]
    ) -> tuple[MaskingClient, Mapping[int, bytes]]:
        """Its own seed, and one share of each neighbour's secrets, by place; the same question may be asked again."""
        roster, own = self._agreed(session), self.own
        if not self.signed or tuple(survivors) != self.signed:
            raise PeerError("the survivors are not those of the signed list: no second unmasking")
        if self.revealed is not None:
            return self, self.revealed
        text = roster.survivors_text(self.sharers, survivors)
        alive = set(survivors)
        valid = {
            place
            for place, signature in signatures.items()
            if place in alive and is_signed(roster.offers[place].identity, signature, text)
        }
        if len(valid) < roster.threshold:
            raise PeerError(
                f"{len(valid)} survivors have signed the list of them, expected at least {roster.threshold}"
            )
        # held: (share of the masking key, share of the seed)
        revealed = {place: pair[place in alive] for place, pair in self.held.items()}
        if own is not None:
            # So that a wrong share of it cannot spoil the sum.
            revealed[roster.place(self.client)] = whole_secret(own.seed)
        closed = {**self.closed, session.series: session.round}
        return replace(self, own=None, held={}, revealed=revealed, closed=closed), revealed

    def _own(self, session: MaskedAttempt) -> Secrets:
        if self.session != session or self.own is None:
            raise PeerError("this attempt is over, or not the one that keys were offered for")
        return self.own

    def _agreed(self, session: MaskedAttempt) -> Roster:
        if self.session != session:
            raise PeerError("the request is not for the current attempt")
        if self.roster is None:
            raise PeerError("no roster was sent in this attempt yet")
        return self.roster

    def _check_neighbours(self, roster: Roster, survivors: Sequence[int], masked: Mapping[int, bytes]) -> None:
        """Refuse to be among strangers: enough of its holders are survivors, and masked with the same clients."""
        me = roster.place(self.client)
        left, text = set(roster.holders(me)) & set(survivors), roster.masked_text(self.sharers)
        if len(left) < (least := roster.share_threshold(me)):
            raise PeerError(f"{len(left)} holders of the shares of {self.client!a} survived, expected at least {least}")
        for place in left - {me}:
            if not is_signed(roster.offers[place].identity, masked.get(place, b""), text):
                raise PeerError(f"{roster.offers[place].client!a} has not signed that it masked with the same clients")

    def to_bytes(self) -> bytes:
        """For this client's own disk: secret."""
        return _STORED.dump_json(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> MaskingClient:
        """The inverse of `to_bytes`."""
        try:
            return _STORED.validate_json(data)
        except ValidationError:
            raise PeerError("the client's stored state of masked rounds is damaged") from None


_STORED = TypeAdapter(MaskingClient)


def pair_key(private: bytes, public: bytes, roster: Roster, received: bytes) -> bytes:
    """Key of the mask of two clients; each has the other's public key."""
    return agreed(private, public, b"mask of two", roster.digest, received)


def self_key(seed: bytes, roster: Roster, received: bytes) -> bytes:
    """Key of a client's own mask."""
    return derived(seed, b"mask of one", roster.digest, received)
