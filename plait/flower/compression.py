"""A mod for any ClientApp: what `plait.flower.Compressed` sends is unpacked for the app, what it answers is packed.

A message of the server's has a ConfigRecord `KEY`, and one array of bytes in place of the float arrays of each record
named there; everything else travels as it is. The adapter that a client holds and what it owes live in Flower's
Context. A client whose Context is lost asks for everything. Knows nothing of strategies.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from numpy.typing import NDArray

from plait.compress.broadcaster import NotHeldError, Receiver
from plait.compress.message import Compressor, decompress, is_float, state_of
from plait.errors import ConfigError, PeerError

KEY = "plait.compress"
"""Of the record that describes how a message is compressed, and of what a client keeps in its Context."""
BLOB = "plait.compressed"
"""The array of bytes in a record, in place of its float arrays."""
STYPE = "plait.v1"
NO_SECURE_AGGREGATION = (
    "compression does not go with SecAgg+: its masks add up only over one grid of whole numbers for all clients, and "
    "these codes have none; use plait's own secure aggregation, or SecAgg+ without compression"
)
_MASKED = "secaggplus_configs"

Floats = Mapping[str, NDArray[Any]]
T = TypeVar("T")


def compression_mod(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """Put it first, ``ClientApp(mods=[compression_mod, …])``: mods after it see the arrays, those before it the bytes.

    Messages of a server without `Compressed` pass unchanged.

    Raises:
        ConfigError: the message belongs to SecAgg+.
        PeerError: the server's bytes are no such message.
    """
    if _MASKED in message.content:
        raise ConfigError(NO_SECURE_AGGREGATION)
    asked = message.content.get(KEY)
    if not isinstance(asked, ConfigRecord):
        return call_next(message, context)
    links: dict[str, _Link] = {}
    content = RecordDict({name: record for name, record in message.content.items() if name != KEY})
    try:
        for name in listed(asked, "records", str):
            links[name] = _Link(name, context)
            content[name] = links[name].received(content[name], listed(asked, f"order.{name}", str))
    except NotHeldError:
        return Message(RecordDict({KEY: ConfigRecord({"needs-all": True})}), reply_to=message)
    message.content = content
    reply = call_next(message, context)
    if not reply.has_content():
        return reply
    answer = RecordDict(dict(reply.content.items()))
    is_training = message.metadata.message_type.partition(".")[0] == "train"
    packed, whole = list[str](), list[str]()
    for name, link in links.items():
        record = answer.get(name)
        if isinstance(record, ArrayRecord) and link.fits(record):
            answer[name], is_whole = link.answered(record, asked, is_training=is_training)
            packed.append(name)
            whole += [name] * is_whole
    holds = [link.receiver.holds for link in links.values()]
    described = {"records": list(links), "holds": holds, "packed": packed, "whole": whole}
    answer[KEY] = ConfigRecord({name: value for name, value in described.items() if value})
    reply.content = answer
    return reply


class _Link:
    """A record's way between the server and this client."""

    def __init__(self, name: str, context: Context) -> None:
        self._key, self._context = f"{KEY}.{name}", context
        self.receiver = Receiver()
        self._before: Floats = {}
        kept = context.state.get(self._key)
        self._kept = {key: array.data for key, array in kept.items()} if isinstance(kept, ArrayRecord) else {}
        if "held" in self._kept:
            self.receiver.load_state_dict({key: np.frombuffer(self._kept[key], np.uint8) for key in ("first", "held")})

    def received(self, record: object, order: list[str]) -> ArrayRecord:
        """The server's arrays."""
        if not isinstance(record, ArrayRecord) or BLOB not in record:
            raise PeerError("server names a record as compressed that is none: does it run another version of plait?")
        self._before = self.receiver.decode(record[BLOB].data)
        self._keep({key: array.tobytes() for key, array in self.receiver.state_dict().items()})
        return merged(self._before, record, order)

    def fits(self, record: ArrayRecord) -> bool:
        """Whether the app answers with arrays like those that it got."""
        found = {name: tuple(array.shape) for name, array in record.items() if is_float(array)}
        return bool(found) and found == {name: array.shape for name, array in self._before.items()}

    def answered(self, record: ArrayRecord, asked: ConfigRecord, *, is_training: bool) -> tuple[ArrayRecord, bool]:
        """The app's arrays, packed, and whether as they are instead of as a change.

        What training changed goes with what earlier rounds owe; one that was away owes nothing, because the others have
        moved on.
        """
        bits, number = asked.get("bits"), asked.get("round")
        if not isinstance(bits, int | float | str) or not isinstance(number, int):
            raise PeerError("server's message lacks the bits of the answer: does it run another version of plait?")
        after = floats_of(record)
        change = {
            name: np.subtract(array, self._before[name], dtype=np.result_type(array, np.float32))
            for name, array in after.items()
        }
        # An app may answer with a change of its own making.
        is_whole = _energy(after) < _energy(change)
        sender = Compressor(bits, feedback=is_training and not is_whole)
        if "owed" in self._kept and int.from_bytes(self._kept["round"], "little") + 1 >= number:
            sender.load_state_dict(decompress(self._kept["owed"]))
        message = sender.encode(after if is_whole else change)
        if is_training and sender.owed is not None:
            owed = Compressor("raw").encode(sender.state_dict())
            self._keep({"owed": bytes(owed), "round": number.to_bytes(8, "little")})
        return with_blob(record, message), is_whole

    def _keep(self, state: Mapping[str, bytes]) -> None:
        self._kept |= state
        self._context.state[self._key] = ArrayRecord({key: blob(data) for key, data in self._kept.items()})


def floats_of(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """The arrays of a record that are compressed."""
    return {name: array.numpy() for name, array in record.items() if is_float(array)}


def with_blob(record: ArrayRecord, message: bytes) -> ArrayRecord:
    """The record with one array of bytes in place of its float arrays."""
    others = {name: array for name, array in record.items() if not is_float(array)}
    return ArrayRecord({BLOB: blob(message), **others})


def merged(floats: Floats, record: ArrayRecord, order: Iterable[str]) -> ArrayRecord:
    """The inverse of `with_blob`, in an order of names; those that it lacks come last."""
    arrays = {name: Array(array) for name, array in floats.items()}
    arrays |= {name: array for name, array in record.items() if name != BLOB}
    return ArrayRecord({name: arrays[name] for name in dict.fromkeys([*order, *arrays]) if name in arrays})


def blob(data: bytes) -> Array:
    """Bytes as Flower's array, which Flower frames once."""
    return Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=bytes(data))


def listed(record: ConfigRecord, key: str, kind: type[T]) -> list[T]:
    """What a list in a record holds of this kind; nothing if there is no such list."""
    value = record.get(key, [])
    return [each for each in value if isinstance(each, kind)] if isinstance(value, list) else []


def _energy(arrays: Floats) -> float:
    flat = state_of(arrays)[1].flat
    return float(np.dot(flat, flat))
