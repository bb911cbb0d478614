"""Flower messages made from bytes and read back, without a Flower process around them.

Flower's own way to make an instruction, ``Message(content, node, type)``, reads the task of the process that Flower
started. plait's server and node are not such processes, so `instruction` sets all metadata itself. It is the only
place that needs more of `Message` than its documented overloads: the argument ``metadata``, present since flwr 1.20.
"""

from __future__ import annotations

import time

from flwr.app import Error, Message, Metadata, RecordDict

from plait.text import printable

SERVER_NODE = 1
"""Flower's id of the server's node."""

_FAILED = 1
_TTL_S = 43_200.0  # Flower's own default


def instruction(
    content: RecordDict,
    message_type: str,
    *,
    dst_node_id: int,
    group_id: str = "",
    message_id: str = "",
    run_id: int = 0,
    src_node_id: int = SERVER_NODE,
    ttl: float | None = None,
) -> Message:
    """A message with a request to a node.

    Args:
        content: of the message.
        message_type: query, train or evaluate, possibly with an action.
        dst_node_id: the node addressed.
        group_id: the round.
        message_id: its name; empty until it is set.
        run_id: of the run.
        src_node_id: the sending node.
        ttl: seconds that it is valid; by default twelve hours.

    Raises:
        ValueError: Flower knows no such message type.
    """
    metadata = Metadata(
        run_id=run_id,
        message_id=message_id,
        src_node_id=src_node_id,
        dst_node_id=dst_node_id,
        reply_to_message_id="",
        group_id=group_id,
        created_at=time.time(),
        ttl=ttl or _TTL_S,
        message_type=message_type,
    )
    return Message(metadata=metadata, content=content)  # pyright: ignore[reportCallIssue]


def error_reply(reason: str, *, reply_to: Message) -> Message:
    """A reply that says in one printable line why there is no answer."""
    return Message(Error(_FAILED, printable(reason)), reply_to=reply_to)
