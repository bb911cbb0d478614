"""plait's own bytes in a Flower message: one uint8 array or two, so that Flower frames them once.

Flower splits every array into objects; hundreds of small tensors take it tens of seconds per round, a blob does
not. A task is its own head and a body that all tasks of a round share: the body's bytes are never copied here.
"""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, Message, RecordDict

from plait.errors import PeerError

_RECORD = "plait"
_HEAD, _BODY = "head", "body"
STYPE = "plait.v1"


def to_content(head: bytes, body: bytes = b"") -> RecordDict:
    """Wrap bytes as the content of a Flower message."""
    parts = {_HEAD: head, _BODY: body} if body else {_HEAD: head}
    return RecordDict({_RECORD: ArrayRecord({name: to_array(part) for name, part in parts.items()})})


def to_array(data: bytes) -> Array:
    """Bytes as Flower's array."""
    return Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=data)


def from_message(message: Message) -> bytes:
    """The bytes in a Flower message, head and body together.

    Raises:
        PeerError: the message carries an error, or something other than plait's bytes.
    """
    node = message.metadata.src_node_id
    if message.has_error():
        raise PeerError(f"node {node} failed: {message.error.reason}")
    content = message.content
    record = content.get(_RECORD)
    if len(content) == 1 and isinstance(record, ArrayRecord) and list(record) in ([_HEAD], [_HEAD, _BODY]):
        head, *body = record.values()
        if all(array.stype == STYPE for array in record.values()):
            return head.data + body[0].data if body else head.data
    raise PeerError(f"node {node} sent a message without plait's bytes in it")
