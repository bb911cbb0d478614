"""The stages of a run's masked sums over a channel, and what is on disk between them.

Three files per sum, in the spool of its round: the sum under masks once its clients are fixed, the signatures under
that list, and the plain sum. A server killed before the first begins another attempt, with other keys; clients give the
same numbers again, so the sum is the same, bit for bit. Killed after it, it asks for the same signatures, and after the
second for the same shares, which clients give again. Killed after the third, it asks for nothing.

Every wait ends: a silent client is a dropout like one whose answer is refused. Where too few are left the attempt is
over, and another may follow as long as no client was asked to unmask: of clients that have revealed shares only the
same ones can be asked for again. Knows no rule and no model.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from plait.adapters import Float32
from plait.adapters.safetensors import decode_arrays, encode_arrays
from plait.errors import PeerError
from plait.guarantees.thresholds import LEAST_CLIENTS, LEAST_GROUPS, threshold_of
from plait.json_text import read_json
from plait.rounds import events
from plait.rounds.cohort import ServerSide
from plait.rounds.events import Reason
from plait.secagg import messages
from plait.secagg.events import GroupLeftOut, SumUnmasked
from plait.secagg.masks import Ring
from plait.secagg.roster import ATTEMPT_BYTES, FAR, Offer, Roster, Session, distances
from plait.secagg.server import (
    Collecting,
    LostError,
    Sealed,
    TooFewError,
    Verdict,
    accused_by,
    agree,
    check_complaint,
    check_offer,
    judge,
    sealed_from_bytes,
    sealed_to_bytes,
    signatures_from_bytes,
    signatures_to_bytes,
)
from plait.secagg.stage import TRAINING_STAGE, MaskedStage, drop, dropped
from plait.trust.identity import Vouch

_Kind = TypeVar("_Kind", bound=messages.Answered)
_One = TypeVar("_One")
_Other = TypeVar("_Other")


@dataclass(frozen=True, eq=False)
class Part:
    """The sum of one group: of these clients' numbers, lifted from the ring, and of their figures."""

    numbers: NDArray[np.int32]
    figures: NDArray[np.uint64]
    clients: tuple[str, ...]

    @property
    def mean(self) -> Float32:
        """Of its clients."""
        return self.numbers.astype(np.float32) / np.float32(len(self.clients))


@dataclass(frozen=True, eq=False)
class Summed:
    """The sum of a round.

    Attributes:
        numbers: of all clients in it, lifted from the ring.
        figures: modulo 2^64.
        clients: in it, by name; none of a sum that is lost.
        invited: clients that the grid was made for.
        groups: of clients, whose sums it is made of.
        length: root mean square of the norms of the groups' means, in units.
        deviation: the largest root mean square of a group's numbers.
    """

    numbers: NDArray[np.int32]
    figures: NDArray[np.uint64]
    clients: tuple[str, ...]
    invited: int
    bits: int
    unit: float
    groups: int = 1
    length: float = 0.0
    deviation: float = 0.0

    @classmethod
    def of(cls, parts: Sequence[Part], wanted: Wanted, *, invited: int) -> Summed:
        """The sum of these groups' sums; zero of none."""
        numbers, figures = np.zeros(wanted.size, np.int32), np.zeros(wanted.figures, np.uint64)
        for part in parts:
            numbers, figures = numbers + part.numbers, figures + part.figures
        squares = [float(np.square(part.numbers, dtype=np.float64).sum()) for part in parts]
        lengths = [square / len(part.clients) ** 2 for square, part in zip(squares, parts, strict=True)]
        return cls(
            numbers,
            figures,
            tuple(sorted(name for part in parts for name in part.clients)),
            invited,
            wanted.bits,
            wanted.unit,
            len(parts),
            math.sqrt(sum(lengths) / max(len(parts), 1)),
            math.sqrt(max(squares, default=0.0) / max(wanted.size, 1)),
        )

    def to_bytes(self) -> bytes:
        """For the run directory."""
        names = ("invited", "bits", "unit", "groups", "length", "deviation")
        said = {"clients": list(self.clients)} | {name: getattr(self, name) for name in names}
        arrays: dict[str, NDArray[np.generic]] = {
            "numbers": self.numbers.view(np.uint32),
            "figures": self.figures.view(np.int64),
        }
        return encode_arrays(arrays, {"sum": json.dumps(said)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Summed:
        """The inverse of `to_bytes`."""
        try:
            arrays, metadata = decode_arrays(data)
            said = cast("dict[str, Any]", read_json(metadata["sum"]))
            numbers = arrays["numbers"].astype(np.uint32).view(np.int32)
            figures = arrays["figures"].astype(np.int64).view(np.uint64)
            return cls(numbers, figures, tuple(said.pop("clients")), **said)
        except (KeyError, ValueError, TypeError) as error:
            raise PeerError("the stored sum of a round is damaged, expected what was stored") from error


@dataclass(frozen=True)
class Wanted:
    """A sum to take.

    Attributes:
        purpose: ``train`` or ``evaluate``.
        received: digest of the adapter that they are made from.
        least: clients that must offer keys, of each group.
        quorum: clients that must be in the sum, if that is more than the roster's threshold.
        groups: that the clients are dealt to.
    """

    run_id: bytes
    purpose: str
    round: int
    bits: int
    unit: float
    size: int
    figures: int
    received: bytes
    least: int = LEAST_CLIENTS
    quorum: int = 0
    noised: bool = False
    groups: int = 1

    @property
    def least_groups(self) -> int:
        """Without so many groups there is no sum: with fewer than three no mean lies apart from others."""
        return 1 if self.groups == 1 else max(LEAST_GROUPS, threshold_of(self.groups))


class ContestedError(TooFewError):
    """A complaint ended an attempt before anything was masked; who is to blame takes no part in the next one."""


class DeclinedError(TooFewError):
    """These clients would not sign the survivors: with sums in their journals, this one tells of few clients."""

    def __init__(self, message: str, *, count: int, clients: frozenset[str]) -> None:
        super().__init__(message, count=count)
        self.clients = clients


Asked = Callable[[Session, Sequence[str]], Iterator[tuple[str, messages.MaskedUpdate]]]
"""Asks clients for their masked numbers in an attempt; gives the answers of those that have one."""


@dataclass(eq=False)
class MaskedSums:
    """Takes the sums of one run.

    Attributes:
        vouch: whether a node key is the client's that an offer names.
        unmasking: told of a sum whose list is signed, before any client is asked to unmask it.
        left_out: clients that are proved to depart from the protocol; no further sum invites them.
        unheard: those that did not answer when they were accused, and the sum that they are left out of, by round and
            purpose.
        evaluations: the clients of each sum of losses.
        seats: the group of each client that a run keeps in one group, the first that came first.
    """

    server: ServerSide
    vouch: Vouch
    unmasking: Callable[[Sealed], None]
    left_out: set[str] = field(default_factory=set[str])
    unheard: set[tuple[int, str, str]] = field(default_factory=set[tuple[int, str, str]])
    evaluations: list[frozenset[str]] = field(default_factory=list[frozenset[str]])
    seats: dict[str, int] = field(default_factory=dict[str, int])
    _told: Counter[tuple[int, str]] = field(default_factory=Counter[tuple[int, str]])

    def recall(self, recorded: Iterable[events.Event]) -> None:
        """Take from an earlier process who departs from the protocol, who has evaluated, and what is recorded."""
        proofs = (Reason.SHARES.value, Reason.COMPLAINT.value)
        for event in recorded:
            if isinstance(event, events.UpdateRefused) and event.reason in proofs:
                self.left_out.add(event.client)
            if isinstance(event, SumUnmasked) and event.evaluated_by:
                self.evaluations.append(frozenset(event.evaluated_by))
            if isinstance(event, SumUnmasked | GroupLeftOut):
                self._told[event.round, event.purpose] += 1

    def may_be_invited(self, wanted: Wanted, client: str) -> bool:
        """Whether a client may take part in a sum."""
        return client not in self.left_out and (wanted.round, wanted.purpose, client) not in self.unheard

    def take(self, wanted: Wanted, invited: Sequence[str], ask: Asked) -> Summed:
        """The sum over the clients that are left at the end; from disk where it is there already.

        Of no clients if it is lost: a member's shares are not of the secret that hides it, and no client may unmask
        another sum of this round.

        Raises:
            TooFewError: fewer than two thirds were left at some stage.
            ContestedError: a client could not open another's shares, or said so.
            DeclinedError: clients would not sign it.
        """
        if stored := self.stored(wanted):
            return stored
        sealed_file = f"secagg-{wanted.purpose}-sealed"
        kept = self.server.directory.load_update(wanted.round, sealed_file)
        sealed = None if kept is None else sealed_from_bytes(kept)
        if sealed is None:
            sealed = self._collect(wanted, invited, ask)
            self.server.directory.store_update(wanted.round, sealed_file, sealed_to_bytes(sealed))
        try:
            signatures = self._signatures(wanted, sealed)
        except TooFewError:
            # No client was asked for a share, so the round may be begun again with other keys.
            self.server.directory.discard_update(wanted.round, sealed_file)
            raise
        signed = [(group, by) for group, by in zip(sealed, signatures, strict=True) if by]
        for group, _ in signed:
            self.unmasking(group)
        parts = self._unmask(wanted, signed)
        return self.commit_sum(wanted, sealed, signed, parts, invited=len(invited))

    def commit_sum(
        self,
        wanted: Wanted,
        sealed: Sequence[Sealed],
        signed: Sequence[tuple[Sealed, Mapping[int, bytes]]],
        parts: Sequence[Part],
        *,
        invited: int,
    ) -> Summed:
        """Record what was unmasked, then store the sum, with which nothing of it is done again.

        Killed before the first event, clients are asked for the same shares again, from the sealed sum and its
        signatures. Killed between two lines, the same, and no event is recorded twice. Killed after the last line, the
        sum is found on disk.
        """
        far = distances([part.mean for part in parts]) if len(parts) >= LEAST_GROUPS else (0.0,) * len(parts)
        near = [part for part, distance in zip(parts, far, strict=True) if distance <= FAR]
        summed = Summed.of(near, wanted, invited=sum(len(group.roster.offers) for group in sealed))
        told: list[events.Event] = [
            GroupLeftOut(round=wanted.round, clients=part.clients, distance=min(distance, 1e300))
            for part, distance in zip(parts, far, strict=True)
            if distance > FAR
        ]
        known = {part.clients for part in parts}
        told += [_unmasked(wanted, group, invited) for group, _ in signed if group.clients in known]
        # Not what an earlier process recorded.
        for event in told[self._told[wanted.round, wanted.purpose] :]:
            self.server.ledger.append(event)
        if wanted.purpose == "evaluate" and known:
            self.evaluations.append(frozenset(summed.clients))
        self.server.directory.store_update(wanted.round, sum_file(wanted.purpose), summed.to_bytes())
        return summed

    def stored(self, wanted: Wanted) -> Summed | None:
        """A sum that was taken before; None if it was not."""
        data = self.server.directory.load_update(wanted.round, sum_file(wanted.purpose))
        return None if data is None else Summed.from_bytes(data)

    def _collect(self, wanted: Wanted, invited: Sequence[str], ask: Asked) -> Sequence[Sealed]:
        """The sealed sums of the groups that have enough clients."""
        session = Session(wanted.run_id, wanted.purpose, wanted.round, secrets.token_bytes(ATTEMPT_BYTES))
        offers: dict[str, Offer] = {}
        with self._stage(session, dict.fromkeys(invited), Offer) as stage:
            for name, offer in stage:
                with stage.dropping(name):
                    check_offer(offer, name, session, self.vouch)
                    if (proven := self.server.roster.keys.get(name)) and proven != offer.identity:
                        raise PeerError(f"{name!a} offers keys under another node key, expected the one that it proved")
                    offers[name] = offer
        seats = seated(offers, wanted.groups, key=f"{wanted.run_id.hex()} {wanted.round}", before=self.seats)
        dealt = [[name for name in sorted(offers) if seats[name] % wanted.groups == at] for at in range(wanted.groups)]

        def agreed(names: Sequence[str]) -> Collecting:
            here, size, figures = [offers[name] for name in names], wanted.size, wanted.figures
            return Collecting(
                agree(session, here, bits=wanted.bits, unit=wanted.unit, size=size, figures=figures, least=wanted.least)
            )

        collecting = _enough(wanted, dealt, agreed)
        of = {offer.client: group for group in collecting for offer in group.roster.offers}
        with self._stage(session, {name: group.roster for name, group in of.items()}, messages.Parcels) as stage:
            for name, parcels in stage:
                with stage.dropping(name):
                    of[name].add_parcels(name, parcels.parts)
        collecting = _enough(wanted, collecting, Collecting.close_sharing)
        ready = self._deliver(wanted, collecting)
        ring = Ring(wanted.bits)
        for name, update in ask(session, ready):
            with dropped(self.server.ledger, wanted.round, name, TRAINING_STAGE):
                values = ring.unpack(update.values, wanted.size)
                if len(update.figures) != 8 * wanted.figures:
                    raise PeerError(f"masked figures have {len(update.figures)} bytes, expected {8 * wanted.figures}")
                figures = np.frombuffer(update.figures, "<u8").astype(np.uint64)
                of[name].add_masked(name, values, figures, update.signature)
        sealed = _enough(wanted, collecting, Collecting.seal)
        count = sum(len(group.survivors) for group in sealed)
        if count < wanted.quorum:
            raise TooFewError(
                f"{count} clients sent a masked update, expected at least {wanted.quorum}, the quorum", count=count
            )
        return sealed

    def _deliver(self, wanted: Wanted, collecting: Sequence[Collecting]) -> list[str]:
        """Pass shares on; the clients that have theirs. A complaint ends the attempt."""
        of = {group.roster.offers[place].client: (group, place) for group in collecting for place in group.sharers}
        deliveries = {
            name: messages.Delivery(group.sharers, group.parcels_for(place)) for name, (group, place) in of.items()
        }
        ready, complaints = list[str](), dict[int, dict[int, tuple[int, ...]]]()
        with self._stage(collecting[0].roster.session, deliveries, messages.Ready) as stage:
            for name, answer in stage:
                if not answer.unreadable:
                    ready.append(name)
                    continue
                with stage.dropping(name):
                    group, place = of[name]
                    check_complaint(group.roster, group.sharers, name, answer.unreadable)
                    complaints.setdefault(collecting.index(group), {})[place] = answer.unreadable
        for number, by_place in sorted(complaints.items()):
            group, accused = collecting[number], accused_by(by_place)
            self._blame(wanted, group.roster, judge(group, accused, self._shown(group.roster, accused)))
        return ready

    def _shown(self, roster: Roster, accused: Mapping[int, int]) -> Mapping[int, bytes]:
        """The keys that accused clients show, by their place."""
        asked = {roster.offers[sender].client: messages.Opening(accuser) for sender, accuser in accused.items()}
        with self._stage(roster.session, asked, messages.Opened) as stage:
            return {roster.place(name): opened.key for name, opened in stage}

    def _blame(self, wanted: Wanted, roster: Roster, verdict: Verdict) -> None:
        """Record who departs from the protocol, and end the attempt with a `ContestedError`."""
        names = [offer.client for offer in roster.offers]
        for blamed, reason, detail in (
            (verdict.senders, Reason.SHARES, "its shares cannot be opened"),
            (verdict.accusers, Reason.COMPLAINT, "it complained of shares that can be opened"),
        ):
            for place in sorted(blamed):
                self._leave_out(wanted, names[place], "delivery", reason, detail)
        self.unheard.update((wanted.round, wanted.purpose, names[place]) for place in verdict.unheard)
        blamed = verdict.senders | verdict.accusers | verdict.unheard
        raise ContestedError(
            f"shares of secrets could not be opened, and {', '.join(repr(names[place]) for place in sorted(blamed))} "
            "cannot say otherwise",
            count=len(names) - len(blamed),
        )

    def _leave_out(self, wanted: Wanted, client: str, stage: str, reason: Reason, detail: str) -> None:
        self.left_out.add(client)
        drop(self.server.ledger, wanted.round, client, stage, reason, detail)

    def _signatures(self, wanted: Wanted, sealed: Sequence[Sealed]) -> Sequence[Mapping[int, bytes]]:
        """Signatures on each group's survivors, none of too few; on disk before any client is asked for a share."""
        file = f"secagg-{wanted.purpose}-signed"
        if kept := self.server.directory.load_update(wanted.round, file):
            return signatures_from_bytes(kept)
        of = {name: number for number, group in enumerate(sealed) for name in group.clients}
        signatures: list[dict[int, bytes]] = [{} for _ in sealed]
        asked = {
            name: messages.Survivors(group.survivors, group.neighbours_of(name))
            for group in sealed
            for name in group.clients
        }
        with self._stage(sealed[0].roster.session, asked, messages.Signed) as stage:
            for name, signed in stage:
                with stage.dropping(name):
                    group = sealed[of[name]]
                    group.check_signature(name, signed.signature)
                    signatures[of[name]][group.roster.place(name)] = signed.signature

        def check(number: int) -> int:
            count, least = len(signatures[number]), sealed[number].roster.threshold
            if count < least:
                raise TooFewError(f"{count} clients signed the survivors, expected at least {least}", count=count)
            return number

        try:
            left = set(_enough(wanted, range(len(sealed)), check))
        except TooFewError as error:
            if not stage.is_declined:
                raise
            raise DeclinedError(str(error), count=error.count, clients=frozenset(of)) from error
        signatures = [dict(sorted(by.items())) if number in left else {} for number, by in enumerate(signatures)]
        self.server.directory.store_update(wanted.round, file, signatures_to_bytes(signatures))
        return signatures

    def _unmask(self, wanted: Wanted, signed: Sequence[tuple[Sealed, Mapping[int, bytes]]]) -> Sequence[Part]:
        """The sums of the groups; without those that are lost."""
        of = {group.roster.offers[place].client: number for number, (group, by) in enumerate(signed) for place in by}
        asked = {
            name: messages.Unmasking(signed[number][0].survivors, signed[number][1]) for name, number in of.items()
        }
        shares: list[dict[int, Mapping[int, bytes]]] = [{} for _ in signed]
        with self._stage(signed[0][0].roster.session, asked, messages.Revealed) as stage:
            for name, revealed in stage:
                with stage.dropping(name):
                    group = signed[of[name]][0]
                    group.check_shares(name, revealed.parts)
                    shares[of[name]][group.roster.place(name)] = revealed.parts
        parts: list[Part] = []
        for (group, _), given in zip(signed, shares, strict=True):
            try:
                numbers, figures = group.unmask(given, received=wanted.received)
            except LostError as lost:
                detail = "its shares do not give its secret"
                self._leave_out(wanted, lost.client, "unmasking", Reason.SHARES, detail)
                continue
            parts.append(Part(numbers, figures, group.clients))
        return parts

    def _stage(self, session: Session, stages: Mapping[str, messages.Stage], kind: type[_Kind]) -> MaskedStage[_Kind]:
        return MaskedStage(self.server, session, stages, kind)


def _unmasked(wanted: Wanted, group: Sealed, invited: int) -> SumUnmasked:
    """What the ledger says of a group's sum."""
    roster = group.roster
    return SumUnmasked(
        round=wanted.round,
        purpose=wanted.purpose,
        invited=invited,
        roster=len(roster.offers),
        shared=len(group.sharers),
        clients=len(group.survivors),
        threshold=roster.threshold,
        neighbours=len(roster.holders(0)) - 1,
        bits=roster.bits,
        unit=roster.unit,
        certified=all(offer.certificate for offer in roster.offers),
        noised=wanted.noised,
        evaluated_by=group.clients if wanted.purpose == "evaluate" else (),
    )


def seated(names: Iterable[str], count: int, *, key: str, before: Mapping[str, int]) -> dict[str, int]:
    """The group of each name, of `count` of nearly one size, in an order that follows from the key.

    Those that had a group `before` keep it: sums of groups that change are equations for each client's part.
    """
    seats = dict(before)
    sizes = Counter(seats.values())
    for name in sorted(set(names) - seats.keys(), key=lambda name: hashlib.sha256(f"{key} {name}".encode()).digest()):
        seats[name] = min(range(count), key=lambda group: sizes[group])
        sizes[seats[name]] += 1
    return seats


def sum_file(purpose: str) -> str:
    """Under which a round's sum is stored, beside the names of clients."""
    return f"secagg-{purpose}-sum"


def _enough(wanted: Wanted, groups: Iterable[_One], do: Callable[[_One], _Other]) -> list[_Other]:
    """What is done with each group that has enough clients; too few such groups are too few clients."""
    done: list[_Other] = []
    failed: TooFewError | None = None
    for group in groups:
        try:
            done.append(do(group))
        except TooFewError as error:
            failed = error
    if failed and len(done) < wanted.least_groups:
        raise failed
    return done
