"""Tasks as Flower messages, and Flower's replies as answers.

Every import of flwr's internals that a node needs is in this file.
"""

from __future__ import annotations

from flwr.app import Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

from client.task import Answer, Kind, Task
from client.wording import failure, shown
from plait.errors import PeerError
from plait.flower.blob import parts_of, to_content
from plait.wire.messages import Refusal, decode_reply

_SERVER_NODE = 1
_LARGEST_REFUSAL = 65536


def to_message(task: Task, body: bytes, *, run_id: int, node_id: int) -> Message:
    """The message that a ClientApp gets.

    Raises:
        PeerError: the bytes are not what the task says they are.
    """
    # flwr reads the identity of the process when a message is made: this one comes from the server.
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, _SERVER_NODE, 0
    message = Message(_content(task, body), node_id, task.message_type, group_id=task.group_id)
    message.metadata.__dict__["_message_id"] = task.task_id
    TaskIdentity.node_id = node_id
    return message


def to_answer(reply: Message) -> Answer:
    """What travels back."""
    if reply.has_error():
        return Answer.failed(reply.error.reason or "the app gave no reason")
    parts = parts_of(reply.content)
    if parts is not None:
        head, body = parts
        data = head + body if body else head  # an answer has no body, and a join would copy it
        return Answer.of(Kind.PLAIT, data, failure=_refusal_in(data))
    return Answer.of(Kind.RECORDS, recorddict_to_proto(reply.content).SerializeToString())


def _refusal_in(data: bytes) -> str:
    """Why plait's own app refused, if it did."""
    if len(data) > _LARGEST_REFUSAL:
        return ""
    try:
        reply = decode_reply(data, max_bytes=_LARGEST_REFUSAL)
    except PeerError:
        return ""  # another app's bytes
    return f"{reply.reason.name.lower().replace('_', ' ')}: {reply.detail}" if isinstance(reply, Refusal) else ""


def _content(task: Task, body: bytes) -> RecordDict:
    if task.kind is Kind.PLAIT:
        return to_content(task.head, body)
    try:
        return recorddict_from_proto(RecordDictProto.FromString(task.head + body))
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        raise PeerError(f"records of task '{shown(task.task_id)}' cannot be read ({failure(error)})") from error
