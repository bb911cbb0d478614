"""How plait's own bytes lie in a Flower message: one uint8 array, so that Flower frames them once.

Flower cuts every array into objects of its own; hundreds of small tensors cost it tens of seconds a round, one blob
does not.
"""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, Message, RecordDict

from plait.errors import PeerError

_RECORD = "plait"
_ARRAY = "blob"
_STYPE = "plait.v1"


def to_content(blob: bytes) -> RecordDict:
    """Wrap bytes as the content of a Flower message."""
    array = Array(dtype="uint8", shape=(len(blob),), stype=_STYPE, data=blob)
    return RecordDict({_RECORD: ArrayRecord({_ARRAY: array})})


def from_message(message: Message) -> bytes:
    """The bytes in a Flower message.

    Raises:
        PeerError: the message carries an error, or something else than plait's bytes.
    """
    if message.has_error():
        raise PeerError(f"node {message.metadata.src_node_id} failed: {message.error.reason}")
    record = message.content.get(_RECORD)
    if not isinstance(record, ArrayRecord) or list(record) != [_ARRAY] or record[_ARRAY].stype != _STYPE:
        raise PeerError(f"node {message.metadata.src_node_id} sent a message without plait's bytes in it")
    return record[_ARRAY].data
