"""The stages of a run's masked sums over a channel, and what is on disk between them.

Three files per sum, in the spool of its round: the sum under masks once its clients are fixed, the signatures under
that list, and the plain sum. A server killed before the first begins another attempt, with other keys; clients give the
same numbers again, so the sum is the same, bit for bit. Killed after it, it asks for the same signatures, and after the
second for the same shares. Killed after the third, it asks for nothing.
"""

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from plait.errors import PeerError
from plait.guarantees import LEAST_GROUPS
from plait.ledger import events
from plait.ledger.events import Reason
from plait.ledger.redaction import GroupLeftOut, SumUnmasked
from plait.rounds.channel import NoAnswer, Purpose, TaskParts, group_of
from plait.rounds.cohort import ServerContext
from plait.rounds.dispatch import RequestBatch, RoundAnswer, TaskResponse, mark_failed
from plait.rounds.roster import REPLY_BYTES
from plait.rounds.spool import AnswerLog
from plait.secagg.server import (
    Collecting,
    LostError,
    SealedSum,
    TooFewError,
    accused_by,
    check_complaint,
    check_offer,
    judge,
    sealed_from_bytes,
    sealed_to_bytes,
    signatures_from_bytes,
    signatures_to_bytes,
)
from plait.secagg.sums import FAR, GroupSum, Summed, WantedSum, distances, sum_file
from plait.trust.keys import Vouch
from plait.trust.masks import Ring
from plait.wire import masked_messages as messages
from plait.wire.masked_roster import ATTEMPT_BYTES, MaskedAttempt, Offer, Roster
from plait.wire.messages import Refusal, RefusalReason, decode_reply, encode_task

_STAGE_BYTES = 1 << 22
_Kind = TypeVar("_Kind", bound=messages.Answered)
_One = TypeVar("_One")
_Other = TypeVar("_Other")

TRAINING_STAGE = "training"
_STAGES: Mapping[type[messages.Answered], str] = {
    Offer: "keys",
    messages.Parcels: "shares",
    messages.Ready: "delivery",
    messages.ParcelKey: "opening",
    messages.Signed: "signatures",
    messages.Revealed: "unmasking",
}
"""The names of the stages, by what is answered."""

Asked = Callable[[MaskedAttempt, Sequence[str]], Iterator[tuple[str, messages.MaskedUpdate]]]
"""Asks clients for their masked numbers in an attempt; gives the answers of those that have one."""


class ContestedError(TooFewError):
    """A complaint ended an attempt before anything was masked; who is to blame takes no part in the next one."""


@dataclass(eq=False)
class MaskedStage(Generic[_Kind]):
    """A stage, by what each client is asked; it is declined where a client's policy or journal forbids that."""

    server: ServerContext
    session: MaskedAttempt
    stages: Mapping[str, messages.Stage]
    kind: type[_Kind]
    is_declined: bool = False

    def __post_init__(self) -> None:
        server, self._name = self.server, _STAGES[self.kind]
        group = group_of(self.session.round, self.session.attempt, self._name)
        self._asking = RequestBatch(
            server.channel, purpose=Purpose.MASK, group=group, patience=server.plan.patience.for_stages
        )

    def hear(self, take: Callable[[str, _Kind], None]) -> None:
        """Ask, and take the answers of this kind; who has none, or one that is refused, is recorded."""
        with self._asking:
            most_s = self._ask()
            channel = self.server.channel
            deadline = channel.clock.now() + most_s if channel.open_ended and most_s else None
            while heard := self._asking.next(deadline):
                with dropped(self.server.log, self.session.round, heard.client, self._name):
                    answer = self._read(heard)
                    if answer is not None:
                        take(heard.client, answer)
            for name in sorted(self._asking.waiting):
                if deadline is None:
                    self._drop(name, Reason.NO_ANSWER, "gave no answer")
                    continue
                detail = f"gave no answer in {most_s:.0f} s, whatever progress it reported"
                self._drop(name, Reason.LATE, detail)
                # So that it holds no further stage as long.
                self.server.roster.cool_down(name, Reason.LATE, detail, waited_s=most_s)

    def _ask(self) -> float:
        """Ask all; the seconds that this may take, 0 if nobody is asked."""
        server, encoded, sizes = self.server, dict[int, TaskParts](), list[int]()
        for name, stage in self.stages.items():
            if name not in server.roster.nodes:
                self._drop(name, Reason.NO_ANSWER, "has left")
                continue
            if id(stage) not in encoded:
                encoded[id(stage)] = encode_task(messages.MaskingTask(self.session, stage))
            parts = encoded[id(stage)]
            sizes.append(sum(map(len, parts)))
            number, purpose = self.session.round, Purpose.MASK.value
            server.ledger.note(events.Broadcast(round=number, client=name, purpose=purpose, downlink_bytes=sizes[-1]))
            self._asking.send(name, server.roster.nodes[name], parts)
        if not sizes:
            return 0.0
        return server.plan.patience.most_stage_s(len(sizes), task_bytes=max(sizes), all_bytes=sum(sizes))

    def _read(self, heard: TaskResponse) -> _Kind | None:
        """The answer of a client; None if it has none."""
        name, raw, server, number = heard.client, heard.data, self.server, self.session.round
        if isinstance(raw, NoAnswer):
            silent = RoundAnswer(name, raw, 0, heard.given_up, heard.waited_s)
            server.log.failure(number, silent, stage=self._name)
            mark_failed(server.roster, silent)
            return None
        self._asking.settled(name)
        purpose = Purpose.MASK.value
        server.ledger.note(events.ReplyReceived(round=number, client=name, purpose=purpose, uplink_bytes=len(raw)))
        reply = decode_reply(raw, max_bytes=REPLY_BYTES + _STAGE_BYTES)
        if isinstance(reply, Refusal):
            self.is_declined |= reply.reason is RefusalReason.POLICY
            server.log.failure(number, RoundAnswer(name, reply, 0), stage=self._name)
            return None
        if isinstance(reply, messages.MaskedReply) and reply.client == name and isinstance(reply.answer, self.kind):
            return reply.answer
        raise PeerError(f"answer is another's or of another kind, expected {self.kind.__name__} of {name!a}")

    def _drop(self, name: str, reason: str, detail: str) -> None:
        self.server.log.refusal(self.session.round, name, reason, detail, stage=self._name)


@contextmanager
def dropped(log: AnswerLog, number: int, name: str, stage: str) -> Generator[None]:
    """Make what is refused of a client its dropout at this stage."""
    try:
        yield
    except PeerError as error:
        log.refusal(number, name, Reason.MALFORMED, str(error), stage=stage)


@dataclass(eq=False)
class MaskedSums:
    """Takes the sums of one run.

    Attributes:
        vouch: whether a node key is the client's that an offer names.
        unmasking: called with a sum whose list is signed, before any client is asked to unmask it.
        left_out: clients that are proved to depart from the protocol; no further sum invites them.
        unheard: those that did not answer when they were accused, and the sum that they are left out of, by round and
            purpose.
        evaluations: the clients of each sum of losses.
        seats: the group of each client that a run keeps in one group, the first that came first.
    """

    server: ServerContext
    vouch: Vouch
    unmasking: Callable[[SealedSum], None]
    left_out: set[str] = field(default_factory=set[str])
    unheard: set[tuple[int, str, str]] = field(default_factory=set[tuple[int, str, str]])
    evaluations: list[frozenset[str]] = field(default_factory=list[frozenset[str]])
    seats: dict[str, int] = field(default_factory=dict[str, int])
    _recorded: Counter[tuple[int, str]] = field(default_factory=Counter[tuple[int, str]])

    def recall(self, recorded: Iterable[events.Event]) -> None:
        """Take from an earlier process who departs from the protocol, who has evaluated, and what is recorded."""
        proofs = (Reason.SHARES.value, Reason.COMPLAINT.value)
        for event in recorded:
            if isinstance(event, events.UpdateRefused) and event.reason in proofs:
                self.left_out.add(event.client)
            if isinstance(event, SumUnmasked) and event.evaluated_by:
                self.evaluations.append(frozenset(event.evaluated_by))
            if isinstance(event, SumUnmasked | GroupLeftOut):
                self._recorded[event.round, event.purpose] += 1

    def may_be_invited(self, wanted: WantedSum, client: str) -> bool:
        """Whether a client may take part in a sum."""
        return client not in self.left_out and (wanted.round, wanted.purpose, client) not in self.unheard

    def take(self, wanted: WantedSum, invited: Sequence[str], ask: Asked) -> None:
        """Store the sum over the clients that are left at the end.

        Of no clients if it is lost: a member's shares are not of the secret that hides it, and no client may unmask
        another sum of this round.

        Raises:
            TooFewError: fewer than two thirds were left at some stage.
            ContestedError: a client could not open another's shares, or claimed so.
        """
        directory, sealed_file = self.server.spool.directory, f"secagg-{wanted.purpose}-sealed"
        kept = directory.load_update(wanted.round, sealed_file)
        sealed = None if kept is None else sealed_from_bytes(kept)
        if sealed is None:
            sealed = self._collect(wanted, invited, ask)
            directory.store_update(wanted.round, sealed_file, sealed_to_bytes(sealed))
        try:
            signatures = self._signatures(wanted, sealed)
        except TooFewError:
            # No client was asked for a share, so the round may be begun again with other keys.
            directory.discard_update(wanted.round, sealed_file)
            raise
        signed = [(group, by) for group, by in zip(sealed, signatures, strict=True) if by]
        for group, _ in signed:
            self.unmasking(group)
        parts = self._unmask(wanted, signed)
        roster = sum(len(group.roster.offers) for group in sealed)
        self.commit_sum(wanted, [group for group, _ in signed], parts, roster=roster, invited=len(invited))

    def commit_sum(
        self, wanted: WantedSum, signed: Sequence[SealedSum], parts: Sequence[GroupSum], *, roster: int, invited: int
    ) -> None:
        """Record what was unmasked, then store the sum, with which nothing of it is done again.

        Killed before the first event, clients are asked for the same shares again, from the sealed sum and its
        signatures. Killed between two lines, the same, and no event is recorded twice. Killed after the last line, the
        sum is found on disk.
        """
        far = distances([part.mean for part in parts]) if len(parts) >= LEAST_GROUPS else (0.0,) * len(parts)
        near = [part for part, distance in zip(parts, far, strict=True) if distance <= FAR]
        summed = Summed.of(near, wanted, invited=roster)
        entries: list[events.Event] = [
            GroupLeftOut(round=wanted.round, clients=part.clients, distance=min(distance, 1e300))
            for part, distance in zip(parts, far, strict=True)
            if distance > FAR
        ]
        known = {part.clients for part in parts}
        entries += [_unmasked(wanted, group, invited) for group in signed if group.clients in known]
        # Not what an earlier process recorded.
        for event in entries[self._recorded[wanted.round, wanted.purpose] :]:
            self.server.ledger.append(event)
        if wanted.purpose != "train" and known:
            self.evaluations.append(frozenset(summed.clients))
        self.server.spool.directory.store_update(wanted.round, sum_file(wanted.purpose), summed.to_bytes())

    def stored(self, wanted: WantedSum) -> Summed | None:
        """A sum that was taken before; None if it was not."""
        data = self.server.spool.directory.load_update(wanted.round, sum_file(wanted.purpose))
        return None if data is None else Summed.from_bytes(data)

    def _collect(self, wanted: WantedSum, invited: Sequence[str], ask: Asked) -> Sequence[SealedSum]:
        """The sealed sums of the groups that have enough clients."""
        session = MaskedAttempt(wanted.run_id, wanted.purpose, wanted.round, secrets.token_bytes(ATTEMPT_BYTES))
        rosters = self._rosters(wanted, session, invited)
        of = {offer.client: group for group in rosters for offer in group.roster.offers}
        asked = {name: group.roster for name, group in of.items()}
        stage = MaskedStage(self.server, session, asked, messages.Parcels)
        stage.hear(lambda name, parcels: of[name].add_parcels(name, parcels.parts))
        collecting = _enough(wanted, rosters, Collecting.close_sharing)
        ready = self._deliver(wanted, collecting)
        ring = Ring(wanted.bits)
        for name, update in ask(session, ready):
            with dropped(self.server.log, wanted.round, name, TRAINING_STAGE):
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

    def _rosters(self, wanted: WantedSum, session: MaskedAttempt, invited: Sequence[str]) -> Sequence[Collecting]:
        """The groups of those that offer keys, with enough clients each."""
        offers: dict[str, Offer] = {}

        def take(name: str, offer: Offer) -> None:
            check_offer(offer, name, session, self.vouch)
            if (known := self.server.roster.clients.get(name)) and known.key not in (b"", offer.identity):
                raise PeerError(f"{name!a} offers keys under another node key than the one that it proved")
            offers[name] = offer

        def agreed(names: Sequence[str]) -> Collecting:
            if len(names) < wanted.least:
                detail = f"{len(names)} clients offered keys, expected at least {wanted.least}"
                raise TooFewError(detail, count=len(names))
            here = tuple(offers[name] for name in names)
            return Collecting(Roster(session, here, wanted.bits, wanted.unit, wanted.size, wanted.figures))

        MaskedStage(self.server, session, dict.fromkeys(invited), Offer).hear(take)
        seats = seated(offers, wanted.groups, key=f"{wanted.run_id.hex()} {wanted.round}", before=self.seats)
        dealt = [[name for name in sorted(offers) if seats[name] % wanted.groups == at] for at in range(wanted.groups)]
        return _enough(wanted, dealt, agreed)

    def _deliver(self, wanted: WantedSum, collecting: Sequence[Collecting]) -> list[str]:
        """Pass shares on; the clients that have theirs. A complaint ends the attempt."""
        of = {group.roster.offers[place].client: (group, place) for group in collecting for place in group.sharers}
        deliveries = {
            name: messages.Delivery(group.sharers, group.parcels_for(place)) for name, (group, place) in of.items()
        }
        ready, complaints = list[str](), dict[int, dict[int, tuple[int, ...]]]()

        def take(name: str, answer: messages.Ready) -> None:
            if not answer.unreadable:
                ready.append(name)
                return
            group, place = of[name]
            check_complaint(group.roster, group.sharers, name, answer.unreadable)
            complaints.setdefault(collecting.index(group), {})[place] = answer.unreadable

        MaskedStage(self.server, collecting[0].roster.session, deliveries, messages.Ready).hear(take)
        for number, by_place in sorted(complaints.items()):
            self._blame(wanted, collecting[number], accused_by(by_place))
        return ready

    def _blame(self, wanted: WantedSum, group: Collecting, accused: Mapping[int, int]) -> None:
        """Have the accused show their keys, record who departs from the protocol, and end the attempt."""
        shown, roster = dict[int, bytes](), group.roster
        asked = {roster.offers[sender].client: messages.UnopenedParcel(accuser) for sender, accuser in accused.items()}

        def take(name: str, opened: messages.ParcelKey) -> None:
            shown[roster.place(name)] = opened.key

        MaskedStage(self.server, roster.session, asked, messages.ParcelKey).hear(take)
        senders, accusers, unheard = judge(group, accused, shown)
        names = [offer.client for offer in roster.offers]
        for blamed, reason, detail in (
            (senders, Reason.SHARES, "its shares cannot be opened"),
            (accusers, Reason.COMPLAINT, "it complained of shares that can be opened"),
        ):
            for place in sorted(blamed):
                self._leave_out(wanted, names[place], "delivery", reason, detail)
        self.unheard.update((wanted.round, wanted.purpose, names[place]) for place in unheard)
        blamed = senders | accusers | unheard
        raise ContestedError(
            f"shares of secrets could not be opened, and {', '.join(repr(names[place]) for place in sorted(blamed))} "
            "cannot prove otherwise",
            count=len(names) - len(blamed),
        )

    def _leave_out(self, wanted: WantedSum, client: str, stage: str, reason: Reason, detail: str) -> None:
        self.left_out.add(client)
        self.server.log.refusal(wanted.round, client, reason, detail, stage=stage)

    def _signatures(self, wanted: WantedSum, sealed: Sequence[SealedSum]) -> Sequence[Mapping[int, bytes]]:
        """Signatures on each group's survivors, none of too few; on disk before any client is asked for a share."""
        file = f"secagg-{wanted.purpose}-signed"
        if kept := self.server.spool.directory.load_update(wanted.round, file):
            return signatures_from_bytes(kept)
        of = {name: number for number, group in enumerate(sealed) for name in group.clients}
        signatures: list[dict[int, bytes]] = [{} for _ in sealed]

        def take(name: str, signed: messages.Signed) -> None:
            group = sealed[of[name]]
            group.check_signature(name, signed.signature)
            signatures[of[name]][group.roster.place(name)] = signed.signature

        def check(number: int) -> int:
            count, least = len(signatures[number]), sealed[number].roster.threshold
            if count < least:
                raise TooFewError(f"{count} clients signed the survivors, expected at least {least}", count=count)
            return number

        asked = {
            name: messages.Survivors(sealed[number].survivors, sealed[number].neighbours_of(name))
            for name, number in of.items()
        }
        stage = MaskedStage(self.server, sealed[0].roster.session, asked, messages.Signed)
        stage.hear(take)
        try:
            left = set(_enough(wanted, range(len(sealed)), check))
        except TooFewError as error:
            error.declined = frozenset(of) if stage.is_declined else frozenset()
            raise
        signatures = [dict(sorted(by.items())) if number in left else {} for number, by in enumerate(signatures)]
        self.server.spool.directory.store_update(wanted.round, file, signatures_to_bytes(signatures))
        return signatures

    def _unmask(self, wanted: WantedSum, signed: Sequence[tuple[SealedSum, Mapping[int, bytes]]]) -> Sequence[GroupSum]:
        """The sums of the groups; without those that are lost."""
        of = {group.roster.offers[place].client: number for number, (group, by) in enumerate(signed) for place in by}
        asked = {
            name: messages.Unmasking(signed[number][0].survivors, signed[number][1]) for name, number in of.items()
        }
        shares: list[dict[int, Mapping[int, bytes]]] = [{} for _ in signed]

        def take(name: str, revealed: messages.Revealed) -> None:
            group, _ = signed[of[name]]
            group.check_shares(name, revealed.parts)
            shares[of[name]][group.roster.place(name)] = revealed.parts

        MaskedStage(self.server, signed[0][0].roster.session, asked, messages.Revealed).hear(take)
        parts: list[GroupSum] = []
        for (group, _), given in zip(signed, shares, strict=True):
            try:
                numbers, figures = group.unmask(given, received=wanted.received)
            except LostError as lost:
                detail = "its shares do not give its secret"
                self._leave_out(wanted, lost.client, "unmasking", Reason.SHARES, detail)
                continue
            parts.append(GroupSum(numbers, figures, group.clients))
        return parts


def _unmasked(wanted: WantedSum, group: SealedSum, invited: int) -> SumUnmasked:
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
        evaluated_by=group.clients if wanted.purpose != "train" else (),
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


def _enough(wanted: WantedSum, groups: Iterable[_One], do: Callable[[_One], _Other]) -> list[_Other]:
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
