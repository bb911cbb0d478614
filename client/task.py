"""A task from a server, and the answer to it, as bytes; knows nothing of the network."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

from client.wording import shown
from plait.errors import PeerError
from plait.rounds.channel import round_and_attempt
from plait.transport.protocol import DIGEST_BYTES, HEAD_BYTES
from plait.v1 import federation_pb2 as pb

MAX_BODY_BYTES = 1 << 31
_MAX_NAME_CHARACTERS = 200


class Kind(IntEnum):
    """Kind of the bytes of an answer."""

    PLAIT = pb.CONTENT_PLAIT
    ERROR = pb.CONTENT_ERROR


@dataclass(frozen=True)
class Task:
    """A task; two are equal if they have the same name and the same bytes.

    Attributes:
        message_type: query, train or evaluate, possibly with an action.
        head: the beginning of its bytes.
        body_sha256: SHA-256 of the rest, 32 bytes; empty if there is none.
    """

    task_id: str
    message_type: str
    group_id: str
    head: bytes
    body_bytes: int
    body_sha256: bytes

    @classmethod
    def from_work(cls, work: pb.Work) -> Task:
        """Check and convert a message from outside.

        Raises:
            PeerError: it is not a task.
        """
        names = (work.task_id, work.message_type, work.group_id)
        if not work.task_id or not work.message_type or max(map(len, names)) > _MAX_NAME_CHARACTERS:
            raise PeerError(
                f"task '{shown(work.task_id)}' of type '{shown(work.message_type)}', expected names for both"
            )
        if len(work.head) > HEAD_BYTES or work.body_bytes > MAX_BODY_BYTES:
            raise PeerError(
                f"task '{shown(work.task_id)}' has a head of {len(work.head)} and a body of {work.body_bytes} bytes, "
                f"expected at most {HEAD_BYTES} and {MAX_BODY_BYTES}"
            )
        if len(work.body_sha256) != (DIGEST_BYTES if work.body_bytes else 0):
            raise PeerError(f"digest of the body of task '{shown(work.task_id)}' has {len(work.body_sha256)} bytes")
        return cls(*names, work.head, work.body_bytes, work.body_sha256)

    @property
    def doing(self) -> str:
        """Description of the work on it."""
        verbs = {"query": "describing the data", "train": "training", "evaluate": "evaluating"}
        category, _, action = self.message_type.partition(".")
        if action == "mask":
            category, verb = action, "masking"
        else:
            verb = verbs.get(category, shown(self.message_type))
        return verb if category == "query" else f"round {shown(round_and_attempt(self.group_id)[0])}: {verb}"

    @property
    def attempt(self) -> str:
        """The attempt at a masked sum that it belongs to; empty for none."""
        return round_and_attempt(self.group_id)[1]


@dataclass(frozen=True)
class Answer:
    """The bytes of an answer.

    Attributes:
        sha256: their digest, 32 bytes.
        failure: why the task failed, for the operator; empty if it did not.
    """

    kind: Kind
    data: bytes
    sha256: bytes
    failure: str = ""

    @classmethod
    def of(cls, kind: Kind, data: bytes, *, failure: str = "") -> Answer:
        """An answer and its digest."""
        return cls(kind, data, hashlib.sha256(data).digest(), failure)

    @classmethod
    def failed(cls, cause: str) -> Answer:
        """One line saying why there is no answer."""
        return cls.of(Kind.ERROR, shown(cause).encode(), failure=shown(cause))
