"""The server's part in the masked sums of a run: the stages over a channel, and what is on disk between them.

Two files per sum, in the spool of its round: the sum under masks once its clients are fixed, and the plain sum. A
server killed before the first begins another attempt, with other keys; clients give the same numbers again, so the sum
is the same, bit for bit. Killed after it, it asks for the same signatures and shares, which clients give again. Killed
after the second, it asks for nothing. Knows no rule and no model.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from plait.adapters.safetensors_file import decode_arrays, encode_arrays
from plait.errors import PeerError
from plait.rounds import events
from plait.rounds.channel import Channel, NoAnswer, Purpose
from plait.rounds.description import REPLY_BYTES
from plait.rounds.ledger import Ledger
from plait.rounds.roster import Roster as Clients
from plait.rounds.run_directory import RunDirectory
from plait.rounds.validate import Reason
from plait.secagg.ring import Ring
from plait.secagg.roster import ATTEMPT_BYTES, Offer, Roster, Session, Vouch
from plait.secagg.server import Collecting, Sealed, TooFewError, agree, check_offer
from plait.wire.masking import (
    Answered,
    Delivery,
    MaskedReply,
    MaskedUpdate,
    MaskingTask,
    Parcels,
    Ready,
    Revealed,
    Signed,
    Stage,
    Survivors,
    Unmasking,
)
from plait.wire.messages import Refusal, decode_reply, decode_task, encode_task

_STAGE_BYTES = 1 << 22
_Kind = TypeVar("_Kind", bound=Answered)


@dataclass(frozen=True, eq=False)
class Summed:
    """The sum of a round.

    Attributes:
        numbers: of all clients in it, lifted from the ring.
        figures: modulo 2^64.
        clients: in it, by name.
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
    """

    run_id: bytes
    purpose: str
    round: int
    bits: int
    unit: float
    size: int
    figures: int
    received: bytes


Asked = Callable[[Sequence[str]], Iterator[tuple[str, MaskedUpdate]]]
"""Asks clients for their masked numbers; gives the answers of those that have one."""


@dataclass(eq=False)
class MaskedSums:
    """Takes the sums of one run.

    Attributes:
        vouch: whether a node key is the client's that an offer names.
    """

    channel: Channel
    directory: RunDirectory
    ledger: Ledger
    vouch: Vouch

    def take(self, wanted: Wanted, clients: Clients, invited: Sequence[str], ask: Asked) -> Summed:
        """The sum over the clients that are left at the end; from disk where it is there already.

        Args:
            wanted: the sum.
            clients: of the run, as far as they can be reached.
            invited: their names.
            ask: for the masked numbers.

        Raises:
            TooFewError: fewer than two thirds were left at some stage.
        """
        if stored := self.stored(wanted):
            return stored
        kept = self.directory.load_update(wanted.round, f"secagg-{wanted.purpose}-sealed")
        sealed = None if kept is None else _sealed_from(kept)
        if sealed is None:
            sealed = self._collect(wanted, clients, invited, ask)
            self.directory.store_update(wanted.round, f"secagg-{wanted.purpose}-sealed", _sealed_bytes(sealed))
        summed = self._unmask(wanted, clients, sealed)
        self.directory.store_update(wanted.round, sum_file(wanted.purpose), summed.to_bytes())
        roster = sealed.roster
        self.ledger.append(
            events.SumUnmasked(
                round=wanted.round,
                purpose=wanted.purpose,
                invited=len(invited),
                roster=len(roster.offers),
                shared=len(sealed.sharers),
                clients=len(sealed.survivors),
                threshold=roster.threshold,
                neighbours=len(roster.holders(0)) - 1,
                bits=roster.bits,
                unit=roster.unit,
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
        number = wanted.round
        offers: dict[str, Offer] = {}
        for name, offer in self._stage(clients, session, dict.fromkeys(invited), Offer):
            with self._dropping(number, name):
                check_offer(offer, name, session, self.vouch)
                offers[name] = offer
        roster = agree(
            session,
            offers.values(),
            bits=wanted.bits,
            unit=wanted.unit,
            size=wanted.size,
            figures=wanted.figures,
        )
        names = [offer.client for offer in roster.offers]
        collecting = Collecting(roster)
        for name, parcels in self._stage(clients, session, dict.fromkeys(names, roster), Parcels):
            with self._dropping(number, name):
                collecting.add_parcels(name, parcels.parts)
        sharers = collecting.close_sharing()
        deliveries = {names[place]: Delivery(sharers, collecting.parcels_for(place)) for place in sharers}
        ready = [name for name, _ in self._stage(clients, session, deliveries, Ready)]
        ring = Ring(wanted.bits)
        for name, update in ask(ready):
            with self._dropping(number, name):
                values = ring.unpack(update.values, wanted.size)
                if len(update.figures) != 8 * wanted.figures:
                    raise PeerError(f"masked figures have {len(update.figures)} bytes, expected {8 * wanted.figures}")
                collecting.add_masked(name, values, np.frombuffer(update.figures, "<u8").astype(np.uint64))
        return collecting.seal()

    def _unmask(self, wanted: Wanted, clients: Clients, sealed: Sealed) -> Summed:
        roster, session = sealed.roster, sealed.roster.session
        names = [roster.offers[place].client for place in sealed.survivors]
        signatures: dict[int, bytes] = {}
        for name, signed in self._stage(clients, session, dict.fromkeys(names, Survivors(sealed.survivors)), Signed):
            with self._dropping(wanted.round, name):
                sealed.check_signature(name, signed.signature)
                signatures[roster.place(name)] = signed.signature
        if len(signatures) < roster.threshold:
            raise TooFewError(f"{len(signatures)} clients signed the survivors, expected at least {roster.threshold}")
        shares: dict[int, Mapping[int, bytes]] = {}
        signers = [roster.offers[place].client for place in sorted(signatures)]
        asked = dict.fromkeys(signers, Unmasking(sealed.survivors, dict(sorted(signatures.items()))))
        for name, revealed in self._stage(clients, session, asked, Revealed):
            with self._dropping(wanted.round, name):
                sealed.check_shares(name, revealed.parts)
                shares[roster.place(name)] = revealed.parts
        numbers, figures = sealed.unmask(shares, received=wanted.received)
        return Summed(numbers, figures, tuple(names), len(roster.offers), roster.bits, roster.unit)

    def _stage(
        self, clients: Clients, session: Session, stages: Mapping[str, Stage], kind: type[_Kind]
    ) -> Iterator[tuple[str, _Kind]]:
        """Ask clients for one stage; gives their answers, and records those that have none of this kind."""
        asked: dict[int, str] = {}
        with self.channel.exchange(Purpose.MASK, str(session.round)) as exchange:
            for name, stage in stages.items():
                if name not in clients.nodes:
                    self._drop(session.round, name, Reason.NO_ANSWER, "has left")
                    continue
                parts = encode_task(MaskingTask(session, stage))
                sent_bytes = sum(map(len, parts))
                self.ledger.note(
                    events.Broadcast(
                        round=session.round, client=name, purpose=Purpose.MASK.value, downlink_bytes=sent_bytes
                    )
                )
                asked[clients.nodes[name]] = name
                exchange.send(clients.nodes[name], parts)
            while asked and (received := exchange.receive(None)):
                node, raw = received
                name = asked.pop(node, None)
                if name is None:
                    continue  # was not asked, or has answered
                if isinstance(raw, NoAnswer):
                    self._drop(session.round, name, Reason.NO_ANSWER, raw.detail)
                    continue
                self.ledger.note(
                    events.ReplyReceived(
                        round=session.round, client=name, purpose=Purpose.MASK.value, uplink_bytes=len(raw)
                    )
                )
                with self._dropping(session.round, name):
                    reply = decode_reply(raw, max_bytes=REPLY_BYTES + _STAGE_BYTES)
                    if isinstance(reply, Refusal):
                        raise PeerError(reply.detail)
                    if not isinstance(reply, MaskedReply) or reply.client != name or not isinstance(reply.answer, kind):
                        raise PeerError(f"answer is another's or of another kind, expected {kind.__name__} of {name!a}")
                    yield name, reply.answer
        for name in asked.values():
            self._drop(session.round, name, Reason.NO_ANSWER, "gave no answer")

    @contextmanager
    def _dropping(self, number: int, name: str) -> Generator[None]:
        """Make an answer that is refused a dropout."""
        try:
            yield
        except PeerError as error:
            self._drop(number, name, Reason.MALFORMED, str(error))

    def _drop(self, number: int, name: str, reason: Reason, detail: str) -> None:
        self.ledger.append(events.UpdateRefused(round=number, client=name, reason=reason.value, detail=detail))


def sum_file(purpose: str) -> str:
    """Under which a round's sum is stored, beside the names of clients."""
    return f"secagg-{purpose}-sum"


def _sealed_bytes(sealed: Sealed) -> bytes:
    roster = sealed.roster
    # As the task that showed the roster to its clients.
    (shown, _) = encode_task(MaskingTask(roster.session, roster))
    said = {"roster": shown.hex(), "sharers": list(sealed.sharers), "survivors": list(sealed.survivors)}
    arrays: dict[str, NDArray[np.generic]] = {
        "values": sealed.values.astype(np.uint32),
        "figures": sealed.figures.view(np.int64),
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
        return Sealed(task.stage, tuple(said["sharers"]), tuple(said["survivors"]), values, figures)
    except (KeyError, ValueError, TypeError) as error:
        raise PeerError("the stored sum under masks is damaged, expected what was stored") from error
