"""Flower messages as the bytes of a task, and the bytes of an answer as Flower messages.

plait's own bytes travel as they are, any other RecordDict serialised by Flower. Every import of Flower's internals that
the grid needs is in this file and in `plait.simulation.local_grid`.
"""

from __future__ import annotations

import itertools
import uuid

from flwr.app import Error, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordsProto
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

from plait.flower.blob import parts_of, to_content
from plait.simulation.local_grid import SERVER_NODE
from plait.v1 import federation_pb2 as pb
from server.inbox import Answer

_FAILED = 1
_PROCESS = uuid.uuid4().hex
_NUMBERS = itertools.count()


def identify(run_id: int) -> None:
    """Tell Flower, which reads it when a message is made, which run and node this process is."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SERVER_NODE, 0


def stamped(message: Message) -> str:
    """Give a message an id of its own, and return it."""
    message.metadata.__dict__["_message_id"] = f"{_PROCESS}-{next(_NUMBERS)}"
    return message.metadata.message_id


def emptied(message: Message) -> Message:
    """What `reply_to` needs of a message, without its content."""
    return Message(RecordDict(), metadata=message.metadata)  # pyright: ignore[reportCallIssue] (Flower's own way)


def to_parts(content: RecordDict) -> tuple[int, bytes, bytes]:
    """What a task's bytes are (the number of a `Content`), its own bytes, and those that it may share."""
    parts = parts_of(content)
    if parts is not None:
        return pb.CONTENT_PLAIT, *parts
    return pb.CONTENT_RECORDS, b"", recorddict_to_proto(content).SerializeToString()


def to_reply(answer: Answer, *, reply_to: Message) -> Message:
    """An answer as a reply; one that is not what it says it is becomes an error."""
    if answer.content == pb.CONTENT_PLAIT:
        return _reply(to_content(answer.data), reply_to)
    if answer.content == pb.CONTENT_ERROR:
        return to_error(bytes(answer.data).decode(errors="replace"), reply_to=reply_to)
    try:
        return _reply(recorddict_from_proto(RecordsProto.FromString(bytes(answer.data))), reply_to)
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        return to_error(f"answer holds no records ({type(error).__name__})", reply_to=reply_to)


def to_error(reason: str, *, reply_to: Message) -> Message:
    """A reply that says in one printable line why there is no answer."""
    line = "".join(character if character.isprintable() else " " for character in reason)
    reply = Message(Error(_FAILED, line), reply_to=reply_to)
    stamped(reply)
    return reply


def _reply(content: RecordDict, reply_to: Message) -> Message:
    reply = Message(content, reply_to=reply_to)
    stamped(reply)
    return reply
