"""plait's own bytes in a Flower message: one uint8 array or two, so that Flower frames them once.

Flower splits every array into objects; hundreds of small tensors take it tens of seconds per round, a blob does
not. A task is its own head and a body that all tasks of a round share: the body's bytes are never copied here.
"""

from __future__ import annotations

from typing import cast

from flwr.app import Array, ArrayRecord, Message, RecordDict

from plait.errors import PeerError
from plait.rounds.channel import Data

_RECORD = "plait"
_HEAD, _BODY = "head", "body"
STYPE = "plait.v1"


def to_content(head: Data, body: bytes = b"") -> RecordDict:
    """Wrap bytes as the content of a Flower message.

    Args:
        head: a view if the message stays in this process and `data_of` reads it, otherwise bytes.
        body: the rest.
    """
    parts = {_HEAD: head, _BODY: body} if body else {_HEAD: head}
    record = ArrayRecord({name: _to_array(part) for name, part in parts.items()})
    if not isinstance(head, bytes):
        record[_HEAD].data = cast("bytes", head)  # Flower requires bytes, and reads them only when it sends them
    return RecordDict({_RECORD: record})


def parts_of(content: RecordDict) -> tuple[bytes, bytes] | None:
    """Head and body of a message's content; None if it does not contain plait's bytes."""
    record = content.get(_RECORD)
    if len(content) != 1 or not isinstance(record, ArrayRecord) or list(record) not in ([_HEAD], [_HEAD, _BODY]):
        return None
    if any(array.stype != STYPE for array in record.values()):
        return None
    return record[_HEAD].data, record[_BODY].data if _BODY in record else b""


def from_message(message: Message) -> bytes:
    """The bytes in a Flower message, head and body together.

    Raises:
        PeerError: the message carries an error, or something other than plait's bytes.
    """
    data = data_of(message)
    return data if isinstance(data, bytes) else bytes(data)


def data_of(message: Message) -> Data:
    """As `from_message`, but a view stays a view, not copied.

    Raises:
        PeerError: as there.
    """
    if message.has_error():
        raise PeerError(f"node {message.metadata.src_node_id} failed: {message.error.reason}")
    parts = parts_of(message.content)
    if parts is None:
        raise PeerError(f"node {message.metadata.src_node_id} sent a message without plait's bytes in it")
    head, body = parts
    return b"".join((head, body)) if body else head


def _to_array(data: Data) -> Array:
    return Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=data if isinstance(data, bytes) else b"")
