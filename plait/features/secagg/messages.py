"""The messages of a sum under masks, as frozen values and as protobuf.

Sizes and numbers of entries are checked here; what they mean, and who may say it, the rest of the folder checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from plait.errors import PeerError
from plait.features.secagg.masks import LEAST_BITS, MOST_BITS
from plait.features.secagg.roster import ATTEMPT_BYTES, MOST_CLIENTS, MOST_FIGURES, Offer, Roster, Session
from plait.v1 import messages_pb2 as pb
from plait.wire import bounds, canonical

PURPOSES = ("train", "evaluate")
_PLACE_BYTES = 2
_MOST_PART_BYTES = 256
_MOST_CERTIFICATE_BYTES, _MOST_ENDORSEMENT_BYTES = 2048, 128


@dataclass(frozen=True)
class Delivery:
    """Who shared, and what was encrypted to the receiver, by place."""

    sharers: tuple[int, ...]
    parcels: Mapping[int, bytes]


@dataclass(frozen=True)
class Survivors:
    """Whose masked updates came; to be signed."""

    survivors: tuple[int, ...]


@dataclass(frozen=True)
class Unmasking:
    """Whose masked updates came, and who signed that."""

    survivors: tuple[int, ...]
    signatures: Mapping[int, bytes]


@dataclass(frozen=True)
class Opening:
    """Who cannot open what the receiver encrypted to them; to be shown by the keys of these parcels."""

    receivers: tuple[int, ...]


Stage: TypeAlias = Roster | Delivery | Opening | Survivors | Unmasking | None


@dataclass(frozen=True)
class MaskingTask:
    """A stage of a sum under masks; None: offer keys."""

    session: Session
    stage: Stage = None
    field: ClassVar[str] = "masking"
    what: ClassVar[str] = "a masked sum"

    def message(self) -> pb.Masking:
        """It as protobuf."""
        return task_message(self)


@dataclass(frozen=True)
class Parcels:
    """Encrypted shares of a client's secrets, by the place of their holder."""

    parts: Mapping[int, bytes]


@dataclass(frozen=True)
class Ready:
    """The client has its neighbours' shares; or it cannot open those of `unreadable`."""

    unreadable: tuple[int, ...] = ()


@dataclass(frozen=True)
class Opened:
    """Keys of parcels, by the place of their receiver."""

    parts: Mapping[int, bytes]


@dataclass(frozen=True)
class Signed:
    """A signature on the list of survivors."""

    signature: bytes


@dataclass(frozen=True)
class Revealed:
    """Shares, by the place of whose they are."""

    parts: Mapping[int, bytes]


@dataclass(frozen=True)
class MaskedUpdate:
    """Packed numbers, and figures of eight bytes each, under masks."""

    values: bytes
    figures: bytes


Answered: TypeAlias = Offer | Parcels | Ready | Opened | Signed | Revealed | MaskedUpdate


@dataclass(frozen=True)
class MaskedReply:
    """A client's answer within a sum under masks."""

    client: str
    answer: Answered
    field: ClassVar[str] = "masked"

    def message(self) -> pb.Masked:
        """It as protobuf."""
        return reply_message(self)


def task_message(task: MaskingTask) -> pb.Masking:
    """A task as protobuf."""
    session = _checked(task.session)
    message = pb.Masking(run_id=session.run_id, purpose=session.purpose, round=session.round, attempt=session.attempt)
    match task.stage:
        case Roster() as roster:
            message.roster.CopyFrom(
                pb.MaskRoster(
                    offers=[pb.MaskOffer(**vars(offer)) for offer in roster.offers],
                    bits=roster.bits,
                    unit=roster.unit,
                    size=roster.size,
                    figures=roster.figures,
                )
            )
        case Delivery(sharers, parcels):
            message.delivery.CopyFrom(pb.MaskDelivery(sharers=_places(sharers), parcels=_entries(parcels)))
        case Opening(receivers):
            message.opening.CopyFrom(pb.MaskOpening(receivers=_places(receivers)))
        case Survivors(survivors):
            message.survivors.CopyFrom(pb.MaskSurvivors(survivors=_places(survivors)))
        case Unmasking(survivors, signatures):
            message.unmasking.CopyFrom(pb.MaskUnmasking(survivors=_places(survivors), signatures=_entries(signatures)))
        case None:
            pass
    return message


def read_task(message: pb.Masking) -> MaskingTask:
    """A task from protobuf.

    Raises:
        PeerError: a value is out of bounds.
    """
    session = _checked(Session(message.run_id, message.purpose, message.round, message.attempt))
    match message.WhichOneof("stage"):
        case "roster":
            return MaskingTask(session, _read_roster(message.roster, session))
        case "delivery":
            delivery = message.delivery
            return MaskingTask(session, Delivery(_read_places(delivery.sharers), _parts(delivery.parcels)))
        case "opening":
            return MaskingTask(session, Opening(_read_places(message.opening.receivers)))
        case "survivors":
            return MaskingTask(session, Survivors(_read_places(message.survivors.survivors)))
        case "unmasking":
            unmasking = message.unmasking
            return MaskingTask(session, Unmasking(_read_places(unmasking.survivors), _parts(unmasking.signatures)))
        case _:
            return MaskingTask(session)


def reply_message(reply: MaskedReply) -> pb.Masked:
    """A reply as protobuf."""
    message = pb.Masked(client=bounds.name("client name", reply.client))
    match reply.answer:
        case Offer() as offer:
            message.offer.CopyFrom(pb.MaskOffer(**vars(offer)))
        case Parcels(parts):
            message.parcels.CopyFrom(pb.MaskParts(parts=_entries(parts)))
        case Ready(unreadable) if unreadable:
            message.unreadable = _places(unreadable)
        case Ready():
            message.ready = True
        case Opened(parts):
            message.opened.CopyFrom(pb.MaskParts(parts=_entries(parts)))
        case Signed(signature):
            message.signature = signature
        case Revealed(parts):
            message.revealed.CopyFrom(pb.MaskParts(parts=_entries(parts)))
        case MaskedUpdate(values, figures):
            message.update.CopyFrom(pb.MaskedUpdate(values=values, figures=figures))
    return message


def read_reply(message: pb.Masked) -> MaskedReply:
    """A reply from protobuf.

    Raises:
        PeerError: a value is out of bounds.
    """
    client = bounds.name("client name", message.client)
    match message.WhichOneof("answer"):
        case "offer":
            return MaskedReply(client, _read_offer(message.offer))
        case "parcels":
            return MaskedReply(client, Parcels(_parts(message.parcels.parts)))
        case "ready" if message.ready:
            return MaskedReply(client, Ready())
        case "unreadable" if message.unreadable:
            return MaskedReply(client, Ready(_read_places(message.unreadable)))
        case "opened":
            return MaskedReply(client, Opened(_parts(message.opened.parts)))
        case "signature":
            return MaskedReply(
                client, Signed(bounds.exact_length("signature", message.signature, bounds.SIGNATURE_BYTES))
            )
        case "revealed":
            return MaskedReply(client, Revealed(_parts(message.revealed.parts)))
        case "update":
            return MaskedReply(client, MaskedUpdate(message.update.values, message.update.figures))
        case _:
            raise PeerError("masked reply has no answer, expected keys, shares, a signature or an update")


def _checked(session: Session) -> Session:
    bounds.exact_length("run of the masked sum", session.run_id, bounds.RUN_ID_BYTES)
    bounds.exact_length("attempt of the masked sum", session.attempt, ATTEMPT_BYTES)
    bounds.integer("round", session.round, maximum=bounds.MAX_STEPS)
    if session.purpose not in PURPOSES:
        raise PeerError(f"purpose of the masked sum is {session.purpose!a}, expected {' or '.join(PURPOSES)}")
    return session


def _read_roster(message: pb.MaskRoster, session: Session) -> Roster:
    bounds.integer("clients of the masked sum", len(message.offers), maximum=MOST_CLIENTS)
    return Roster(
        session,
        tuple(_read_offer(offer) for offer in message.offers),
        bounds.integer("bits of the ring", message.bits, minimum=LEAST_BITS, maximum=MOST_BITS),
        bounds.positive("unit of the grid", message.unit),
        bounds.integer("numbers of the masked sum", message.size),
        bounds.integer("figures of the masked sum", message.figures, maximum=MOST_FIGURES),
    )


def _read_offer(message: pb.MaskOffer) -> Offer:
    keys = (message.identity, message.encryption, message.masking, message.commitment)
    for key in keys:
        bounds.exact_length("key of a masked sum", key, bounds.DIGEST_BYTES)
    signature = bounds.exact_length("signature", message.signature, bounds.SIGNATURE_BYTES)
    bounds.integer("bytes of a certificate", len(message.certificate), maximum=_MOST_CERTIFICATE_BYTES)
    bounds.integer("bytes of an endorsement", len(message.endorsement), maximum=_MOST_ENDORSEMENT_BYTES)
    client = bounds.name("client name", message.client)
    return Offer(client, *keys, signature, message.certificate, message.endorsement)


def _entries(parts: Mapping[int, bytes]) -> list[pb.MaskPart]:
    return canonical.entries(pb.MaskPart, parts)


def _parts(found: Sequence[pb.MaskPart]) -> dict[int, bytes]:
    bounds.integer("parts of a masked sum", len(found), maximum=MOST_CLIENTS)
    parts = canonical.table_of(found, "parts of a masked sum")
    for part in parts.values():
        bounds.integer("bytes of a part of a masked sum", len(part), maximum=_MOST_PART_BYTES)
    return parts


def _places(places: Sequence[int]) -> bytes:
    return b"".join(place.to_bytes(_PLACE_BYTES, "big") for place in places)


def _read_places(data: bytes) -> tuple[int, ...]:
    if len(data) % _PLACE_BYTES or len(data) > MOST_CLIENTS * _PLACE_BYTES:
        raise PeerError(f"list of places has {len(data)} bytes, expected two for each of at most {MOST_CLIENTS}")
    parts = (data[at : at + _PLACE_BYTES] for at in range(0, len(data), _PLACE_BYTES))
    return tuple(int.from_bytes(part, "big") for part in parts)
