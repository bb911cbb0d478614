"""The messages of a sum under masks, as frozen values and as protobuf; sizes and counts are checked here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias, cast

from plait.errors import PeerError
from plait.trust.masks import LEAST_BITS, MOST_BITS
from plait.v1 import messages_pb2 as pb
from plait.wire import bounds, canonical
from plait.wire.masked_roster import ATTEMPT_BYTES, MOST_CLIENTS, MOST_FIGURES, MaskedAttempt, Offer, Roster

PURPOSES = ("train", "evaluate", "judge")
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
    """Whose masked updates came, to be signed; and the signatures of the receiver's neighbours among them, by place."""

    survivors: tuple[int, ...]
    signatures: Mapping[int, bytes]


@dataclass(frozen=True)
class Unmasking:
    """Whose masked updates came, and who signed that."""

    survivors: tuple[int, ...]
    signatures: Mapping[int, bytes]


@dataclass(frozen=True)
class UnopenedParcel:
    """A place whose client cannot open what was encrypted to it; to be shown by the key of that parcel."""

    receiver: int


Stage: TypeAlias = Roster | Delivery | UnopenedParcel | Survivors | Unmasking | None


@dataclass(frozen=True)
class MaskingTask:
    """A stage of a sum under masks; None: offer keys."""

    session: MaskedAttempt
    stage: Stage = None

    def message(self) -> pb.Masking:
        """It as protobuf."""
        message = pb.Masking(**vars(_checked(self.session)))
        if isinstance(self.stage, Roster):
            offers = [pb.MaskOffer(**vars(offer)) for offer in self.stage.offers]
            grid = {name: getattr(self.stage, name) for name in ("bits", "unit", "size", "figures")}
            message.roster.CopyFrom(pb.MaskRoster(offers=offers, **grid))
        elif self.stage is not None:
            _put(message, _STAGES, self.stage)
        return message


def read_task(message: pb.Masking) -> MaskingTask:
    """A task from protobuf, within its bounds."""
    session = _checked(MaskedAttempt(message.run_id, message.purpose, message.round, message.attempt))
    stage = message.WhichOneof("stage")
    if stage == "roster":
        return MaskingTask(session, _read_roster(message.roster, session))
    return MaskingTask(session, _read(_STAGES[stage], getattr(message, stage)) if stage else None)


@dataclass(frozen=True)
class Parcels:
    """Encrypted shares of a client's secrets, by the place of their holder."""

    parts: Mapping[int, bytes]


@dataclass(frozen=True)
class Ready:
    """The client has its neighbours' shares; or it cannot open those of `unreadable`."""

    unreadable: tuple[int, ...] = ()


@dataclass(frozen=True)
class ParcelKey:
    """The key of a parcel."""

    key: bytes


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
    """Packed numbers, and figures of eight bytes each, under masks; signed for the clients that shared."""

    values: bytes
    figures: bytes
    signature: bytes


Answered: TypeAlias = Offer | Parcels | Ready | ParcelKey | Signed | Revealed | MaskedUpdate


_STAGES: Mapping[str, type[Any]] = {
    "delivery": Delivery,
    "opening": UnopenedParcel,
    "survivors": Survivors,
    "unmasking": Unmasking,
}
_ANSWERS: Mapping[str, type[Any]] = {
    "offer": Offer,
    "parcels": Parcels,
    "revealed": Revealed,
    "update": MaskedUpdate,
}


@dataclass(frozen=True)
class MaskedReply:
    """A client's answer within a sum under masks."""

    client: str
    answer: Answered

    def message(self) -> pb.Masked:
        """It as protobuf."""
        message, answer = pb.Masked(client=bounds.name("client name", self.client)), self.answer
        if isinstance(answer, Signed):
            message.signature = answer.signature
        elif isinstance(answer, ParcelKey):
            message.opened = answer.key
        elif isinstance(answer, Ready) and answer.unreadable:
            message.unreadable = _places(answer.unreadable)
        elif isinstance(answer, Ready):
            message.ready = True
        else:
            _put(message, _ANSWERS, answer)
        return message


def read_reply(message: pb.Masked) -> MaskedReply:
    """A reply from protobuf, within its bounds."""
    client = bounds.name("client name", message.client)
    match message.WhichOneof("answer"):
        case "offer":
            return MaskedReply(client, _read_offer(message.offer))
        case "ready" if message.ready:
            return MaskedReply(client, Ready())
        case "unreadable" if message.unreadable:
            return MaskedReply(client, Ready(_read_places(message.unreadable)))
        case "signature":
            return MaskedReply(client, Signed(_signature(message.signature)))
        case "opened":
            return MaskedReply(client, ParcelKey(bounds.exact_length("key", message.opened, bounds.DIGEST_BYTES)))
        case "parcels" | "revealed" as kind:
            return MaskedReply(client, _read(_ANSWERS[kind], getattr(message, kind)))
        case "update":
            update = message.update
            return MaskedReply(client, MaskedUpdate(update.values, update.figures, _signature(update.signature)))
        case _:
            raise PeerError("masked reply has no answer")


def _put(message: pb.Masking | pb.Masked, kinds: Mapping[str, type[Any]], value: object) -> None:
    """Set the field of a stage or an answer: places, parts by place, and what is bytes already."""
    encoded = {
        name: canonical.entries(pb.MaskPart, cast("Mapping[int, bytes]", each))
        if isinstance(each, Mapping)
        else _places(cast("tuple[int, ...]", each))
        if isinstance(each, tuple)
        else each
        for name, each in vars(value).items()
    }
    field = getattr(message, next(name for name, kind in kinds.items() if kind is type(value)))
    field.CopyFrom(type(field)(**encoded))


def _read(kind: type[Any], message: object) -> Any:
    """The inverse of `_put`, for what has places and parts alone."""
    read: Mapping[type[Any], Callable[[Any], object]] = {bytes: _read_places, int: _place}
    found = {each.name: getattr(message, each.name) for each in fields(kind)}
    return kind(**{name: read.get(type(value), _parts)(value) for name, value in found.items()})


def _checked(session: MaskedAttempt) -> MaskedAttempt:
    bounds.exact_length("run of the masked sum", session.run_id, bounds.RUN_ID_BYTES)
    bounds.exact_length("attempt of the masked sum", session.attempt, ATTEMPT_BYTES)
    bounds.integer("round", session.round, maximum=bounds.MAX_STEPS)
    if session.purpose not in PURPOSES:
        raise PeerError(f"purpose of the masked sum is {session.purpose!a}, expected one of {', '.join(PURPOSES)}")
    return session


def _read_roster(message: pb.MaskRoster, session: MaskedAttempt) -> Roster:
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
    signature = _signature(message.signature)
    bounds.integer("bytes of a certificate", len(message.certificate), maximum=_MOST_CERTIFICATE_BYTES)
    bounds.integer("bytes of an endorsement", len(message.endorsement), maximum=_MOST_ENDORSEMENT_BYTES)
    client = bounds.name("client name", message.client)
    return Offer(client, *keys, signature, message.certificate, message.endorsement)


def _signature(data: bytes) -> bytes:
    return bounds.exact_length("signature", data, bounds.SIGNATURE_BYTES)


def _place(number: int) -> int:
    return bounds.integer("place", number, maximum=MOST_CLIENTS)


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
