"""The server's part in the masked sums of a run: the stages over a channel, and what is on disk between them.

Three files per sum, in the spool of its round: the sum under masks once its clients are fixed, the signatures under
that list, and the plain sum. A server killed before the first begins another attempt, with other keys; clients give the
same numbers again, so the sum is the same, bit for bit. Killed after it, it asks for the same signatures, and after the
second for the same shares, which clients give again. Killed after the third, it asks for nothing.

Nobody is waited for without end: a client that is silent in a stage is a dropout like one whose answer is refused.
Where too few are left the attempt is over, and another may follow as long as nobody was asked to unmask: of clients
that have revealed shares only the same ones can be asked for again. Knows no rule and no model.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from plait.adapters.safetensors_file import decode_arrays, encode_arrays
from plait.errors import PeerError
from plait.rounds import events
from plait.rounds.channel import Channel
from plait.rounds.ledger import Ledger
from plait.rounds.masked_stage import TRAINING_STAGE, MaskedStage, drop, dropped
from plait.rounds.patience import Patience
from plait.rounds.roster import Roster as Clients
from plait.rounds.run_directory import RunDirectory
from plait.rounds.validate import Reason
from plait.secagg.complaint import Verdict, accused_by, check_complaint, judge
from plait.secagg.graph import LEAST_CLIENTS
from plait.secagg.ring import Ring
from plait.secagg.roster import ATTEMPT_BYTES, Offer, Roster, Session, Vouch
from plait.secagg.server import Collecting, LostError, Sealed, TooFewError, agree, check_offer
from plait.wire.masking import (
    Answered,
    Delivery,
    MaskedUpdate,
    MaskingTask,
    Opened,
    Opening,
    Parcels,
    Ready,
    Revealed,
    Signed,
    Stage,
    Survivors,
    Unmasking,
)
from plait.wire.messages import decode_task, encode_task

_Kind = TypeVar("_Kind", bound=Answered)


@dataclass(frozen=True, eq=False)
class Summed:
    """The sum of a round.

    Attributes:
        numbers: of all clients in it, lifted from the ring.
        figures: modulo 2^64.
        clients: in it, by name; none of a sum that is lost.
        invited: clients that the grid was made for.
    """

    numbers: NDArray[np.int32]
    figures: NDArray[np.uint64]
    clients: tuple[str, ...]
    invited: int
    bits: int
    unit: float

    def to_bytes(self) -> bytes:
        """For the run directory."""
        said = {"clients": list(self.clients), "invited": self.invited, "bits": self.bits, "unit": self.unit}
        arrays: dict[str, NDArray[np.generic]] = {
            "numbers": self.numbers.view(np.uint32),
            "figures": self.figures.view(np.int64),
        }
        return encode_arrays(arrays, {"sum": json.dumps(said)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Summed:
        """The inverse of `to_bytes`.

        Raises:
            PeerError: damaged.
        """
        try:
            arrays, metadata = decode_arrays(data)
            said = json.loads(metadata["sum"])
            numbers, figures = (
                arrays["numbers"].astype(np.uint32).view(np.int32),
                arrays["figures"].astype(np.int64).view(np.uint64),
            )
            return cls(numbers, figures, tuple(said["clients"]), said["invited"], said["bits"], float(said["unit"]))
        except (KeyError, ValueError, TypeError) as error:
            raise PeerError("the stored sum of a round is damaged, expected what was stored") from error


@dataclass(frozen=True)
class Wanted:
    """A sum to take.

    Attributes:
        purpose: ``train`` or ``evaluate``.
        size: numbers of each client.
        figures: of each client.
        received: digest of the adapter that they are made from.
        least: clients that must offer keys.
        quorum: clients that must be in the sum, if that is more than the roster's threshold.
        noised: whether clients add noise.
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


class ContestedError(TooFewError):
    """A complaint ended an attempt before anything was masked; who is to blame takes no part in the next one."""


Asked = Callable[[Session, Sequence[str]], Iterator[tuple[str, MaskedUpdate]]]
"""Asks clients for their masked numbers in an attempt; gives the answers of those that have one."""


@dataclass(eq=False)
class MaskedSums:
    """Takes the sums of one run.

    Attributes:
        vouch: whether a node key is the client's that an offer names.
        patience: how long a stage waits for clients that come and go.
        unmasking: told of a sum whose list is signed, before anybody is asked to unmask it.
        left_out: clients that are proved to depart from the protocol; no further sum invites them.
        unheard: those that did not answer when they were accused, and the sum that they are left out of, by round and
            purpose.
    """

    channel: Channel
    directory: RunDirectory
    ledger: Ledger
    vouch: Vouch
    patience: Patience = field(default_factory=Patience)
    unmasking: Callable[[Sealed], None] = lambda _sealed: None
    left_out: set[str] = field(default_factory=set[str])
    unheard: set[tuple[int, str, str]] = field(default_factory=set[tuple[int, str, str]])

    def recall(self, recorded: Iterable[events.Event]) -> None:
        """Leave out whom an earlier process has found to depart from the protocol."""
        proofs = (Reason.SHARES.value, Reason.COMPLAINT.value)
        refusals = (event for event in recorded if isinstance(event, events.UpdateRefused))
        self.left_out.update(event.client for event in refusals if event.reason in proofs)

    def may_be_invited(self, wanted: Wanted, client: str) -> bool:
        """Whether a client may take part in a sum."""
        return client not in self.left_out and (wanted.round, wanted.purpose, client) not in self.unheard

    def take(self, wanted: Wanted, clients: Clients, invited: Sequence[str], ask: Asked) -> Summed:
        """The sum over the clients that are left at the end; from disk where it is there already.

        Args:
            wanted: the sum.
            clients: of the run, as far as they can be reached.
            invited: their names.
            ask: for the masked numbers.

        Returns:
            The sum; of no clients if it is lost: a member's shares are not of the secret that hides it, and nobody may
            unmask another sum of this round.

        Raises:
            TooFewError: fewer than two thirds were left at some stage.
            ContestedError: a client could not open another's shares, or said so.
        """
        if stored := self.stored(wanted):
            return stored
        sealed_file = f"secagg-{wanted.purpose}-sealed"
        kept = self.directory.load_update(wanted.round, sealed_file)
        sealed = None if kept is None else _sealed_from(kept)
        if sealed is None:
            sealed = self._collect(wanted, clients, invited, ask)
            self.directory.store_update(wanted.round, sealed_file, _sealed_bytes(sealed))
        try:
            signatures = self._signatures(wanted, clients, sealed)
        except TooFewError:
            # Nobody was asked for a share, so the round may be begun again with other keys.
            self.directory.discard_update(wanted.round, sealed_file)
            raise
        self.unmasking(sealed)
        summed = self._unmask(wanted, clients, sealed, signatures)
        self.directory.store_update(wanted.round, sum_file(wanted.purpose), summed.to_bytes())
        roster = sealed.roster
        self.ledger.append(
            events.SumUnmasked(
                round=wanted.round,
                purpose=wanted.purpose,
                invited=len(invited),
                roster=len(roster.offers),
                shared=len(sealed.sharers),
                clients=len(summed.clients),
                threshold=roster.threshold,
                neighbours=len(roster.holders(0)) - 1,
                bits=roster.bits,
                unit=roster.unit,
                certified=all(offer.certificate for offer in roster.offers),
                noised=wanted.noised,
            )
        )
        return summed

    def stored(self, wanted: Wanted) -> Summed | None:
        """A sum that was taken before; None if it was not.

        Raises:
            PeerError: it is damaged.
        """
        data = self.directory.load_update(wanted.round, sum_file(wanted.purpose))
        return None if data is None else Summed.from_bytes(data)

    def _collect(self, wanted: Wanted, clients: Clients, invited: Sequence[str], ask: Asked) -> Sealed:
        session = Session(wanted.run_id, wanted.purpose, wanted.round, secrets.token_bytes(ATTEMPT_BYTES))
        offers: dict[str, Offer] = {}
        with self._stage(clients, session, dict.fromkeys(invited), Offer) as stage:
            for name, offer in stage:
                with stage.dropping(name):
                    check_offer(offer, name, session, self.vouch)
                    if (proven := clients.keys.get(name)) and proven != offer.identity:
                        raise PeerError(f"{name!a} offers keys under another node key, expected the one that it proved")
                    offers[name] = offer
        roster = agree(
            session,
            offers.values(),
            bits=wanted.bits,
            unit=wanted.unit,
            size=wanted.size,
            figures=wanted.figures,
            least=wanted.least,
        )
        names = [offer.client for offer in roster.offers]
        collecting = Collecting(roster)
        with self._stage(clients, session, dict.fromkeys(names, roster), Parcels) as stage:
            for name, parcels in stage:
                with stage.dropping(name):
                    collecting.add_parcels(name, parcels.parts)
        sharers = collecting.close_sharing()
        deliveries = {names[place]: Delivery(sharers, collecting.parcels_for(place)) for place in sharers}
        ready, complaints = list[str](), dict[int, tuple[int, ...]]()
        with self._stage(clients, session, deliveries, Ready) as stage:
            for name, answer in stage:
                if not answer.unreadable:
                    ready.append(name)
                    continue
                with stage.dropping(name):
                    check_complaint(roster, sharers, name, answer.unreadable)
                    complaints[roster.place(name)] = answer.unreadable
        if complaints:
            self._blame(wanted, roster, judge(collecting, complaints, self._shown(clients, roster, complaints)))
        ring = Ring(wanted.bits)
        for name, update in ask(session, ready):
            with dropped(self.ledger, wanted.round, name, TRAINING_STAGE):
                values = ring.unpack(update.values, wanted.size)
                if len(update.figures) != 8 * wanted.figures:
                    raise PeerError(f"masked figures have {len(update.figures)} bytes, expected {8 * wanted.figures}")
                collecting.add_masked(name, values, np.frombuffer(update.figures, "<u8").astype(np.uint64))
        sealed = collecting.seal()
        if len(sealed.survivors) < wanted.quorum:
            raise TooFewError(
                f"{len(sealed.survivors)} clients sent a masked update, expected at least {wanted.quorum}, the quorum",
                count=len(sealed.survivors),
            )
        return sealed

    def _shown(
        self, clients: Clients, roster: Roster, complaints: Mapping[int, tuple[int, ...]]
    ) -> Mapping[int, Mapping[int, bytes]]:
        """The keys that accused clients show, by their place, then by the place of who complains."""
        names = [offer.client for offer in roster.offers]
        asked = {names[sender]: Opening(receivers) for sender, receivers in accused_by(complaints).items()}
        with self._stage(clients, roster.session, asked, Opened) as stage:
            return {roster.place(name): opened.parts for name, opened in stage}

    def _blame(self, wanted: Wanted, roster: Roster, verdict: Verdict) -> None:
        """Record who departs from the protocol, and end the attempt.

        Raises:
            ContestedError: always.
        """
        names, stage = [offer.client for offer in roster.offers], "delivery"
        for place in sorted(verdict.senders):
            self._leave_out(wanted.round, names[place], stage, Reason.SHARES, "its shares cannot be opened")
        for place in sorted(verdict.accusers):
            detail = "it complained of shares that can be opened"
            self._leave_out(wanted.round, names[place], stage, Reason.COMPLAINT, detail)
        self.unheard.update((wanted.round, wanted.purpose, names[place]) for place in verdict.unheard)
        blamed = verdict.senders | verdict.accusers | verdict.unheard
        raise ContestedError(
            f"shares of secrets could not be opened, and {', '.join(repr(names[place]) for place in sorted(blamed))} "
            "cannot say otherwise",
            count=len(names) - len(blamed),
        )

    def _leave_out(self, number: int, client: str, stage: str, reason: Reason, detail: str) -> None:
        self.left_out.add(client)
        drop(self.ledger, number, client, stage, reason, detail)

    def _signatures(self, wanted: Wanted, clients: Clients, sealed: Sealed) -> Mapping[int, bytes]:
        """Signatures on the list of survivors, by place; on disk before anybody is asked for a share."""
        roster, file = sealed.roster, f"secagg-{wanted.purpose}-signed"
        if kept := self.directory.load_update(wanted.round, file):
            return _signatures_from(kept)
        names = [roster.offers[place].client for place in sealed.survivors]
        signatures: dict[int, bytes] = {}
        survivors = Survivors(sealed.survivors)
        with self._stage(clients, roster.session, dict.fromkeys(names, survivors), Signed) as stage:
            for name, signed in stage:
                with stage.dropping(name):
                    sealed.check_signature(name, signed.signature)
                    signatures[roster.place(name)] = signed.signature
        if len(signatures) < roster.threshold:
            count = len(signatures)
            raise TooFewError(
                f"{count} clients signed the survivors, expected at least {roster.threshold}", count=count
            )
        signatures = dict(sorted(signatures.items()))
        said = {str(place): signature.hex() for place, signature in signatures.items()}
        self.directory.store_update(wanted.round, file, json.dumps(said).encode())
        return signatures

    def _unmask(self, wanted: Wanted, clients: Clients, sealed: Sealed, signatures: Mapping[int, bytes]) -> Summed:
        roster = sealed.roster
        names = [roster.offers[place].client for place in sealed.survivors]
        shares: dict[int, Mapping[int, bytes]] = {}
        signers = [roster.offers[place].client for place in sorted(signatures)]
        asked = dict.fromkeys(signers, Unmasking(sealed.survivors, signatures))
        with self._stage(clients, roster.session, asked, Revealed) as stage:
            for name, revealed in stage:
                with stage.dropping(name):
                    sealed.check_shares(name, revealed.parts)
                    shares[roster.place(name)] = revealed.parts
        try:
            numbers, figures = sealed.unmask(shares, received=wanted.received)
        except LostError as lost:
            self._leave_out(wanted.round, lost.client, "unmasking", Reason.SHARES, "its shares do not give its secret")
            names.clear()
            numbers, figures = np.zeros(wanted.size, np.int32), np.zeros(wanted.figures, np.uint64)
        return Summed(numbers, figures, tuple(names), len(roster.offers), roster.bits, roster.unit)

    def _stage(
        self, clients: Clients, session: Session, stages: Mapping[str, Stage], kind: type[_Kind]
    ) -> MaskedStage[_Kind]:
        return MaskedStage(self.channel, clients, self.ledger, session, stages, kind, patience=self.patience)


def sum_file(purpose: str) -> str:
    """Under which a round's sum is stored, beside the names of clients."""
    return f"secagg-{purpose}-sum"


def _signatures_from(data: bytes) -> dict[int, bytes]:
    """Stored signatures, by place.

    Raises:
        PeerError: damaged.
    """
    try:
        return {int(place): bytes.fromhex(signature) for place, signature in json.loads(data).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise PeerError("the stored signatures of a round are damaged, expected what was stored") from error


def _sealed_bytes(sealed: Sealed) -> bytes:
    roster = sealed.roster
    # As the task that showed the roster to its clients.
    (shown, _) = encode_task(MaskingTask(roster.session, roster))
    said = {"roster": shown.hex(), "sharers": list(sealed.sharers), "survivors": list(sealed.survivors)}
    arrays: dict[str, NDArray[np.generic]] = {
        "values": sealed.values.astype(np.uint32),
        "figures": sealed.figures.view(np.int64),
        "digests": np.frombuffer(
            b"".join(digest for held in sealed.digests.values() for pair in held.values() for digest in pair), "<u4"
        ),
    }
    return encode_arrays(arrays, {"sealed": json.dumps(said)})


def _sealed_from(data: bytes) -> Sealed:
    """The inverse of `_sealed_bytes`.

    Raises:
        PeerError: damaged.
    """
    try:
        arrays, metadata = decode_arrays(data)
        said = json.loads(metadata["sealed"])
        shown = bytes.fromhex(said["roster"])
        task = decode_task(shown, max_bytes=len(shown))
        if not (isinstance(task, MaskingTask) and isinstance(task.stage, Roster)):
            raise ValueError
        values = arrays["values"].astype(Ring(task.stage.bits).dtype)
        figures = arrays["figures"].astype(np.int64).view(np.uint64)
        roster, sharers = task.stage, tuple(said["sharers"])
        digests = iter(arrays["digests"].astype("<u4").reshape(-1, 2, 8))
        held = {
            place: {
                holder: (key.tobytes(), seed.tobytes())
                for holder, (key, seed) in zip((h for h in roster.holders(place) if h != place), digests, strict=False)
            }
            for place in sharers
        }
        return Sealed(roster, sharers, tuple(said["survivors"]), values, figures, held)
    except (KeyError, ValueError, TypeError) as error:
        raise PeerError("the stored sum under masks is damaged, expected what was stored") from error
