"""Where a node does the tasks of one run: with a participant, or by declining each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

from client.task import Answer, Kind, Task
from client.wording import failure
from plait.abandon import Abandoned
from plait.config import Scalar
from plait.errors import PeerError, PlaitError, PolicyError
from plait.rounds.channel import Answering
from plait.wire.messages import Refusal, RefusalReason, decode_reply, encode_reply

_LARGEST_REFUSAL = 65536


@dataclass(frozen=True)
class Run:
    """What a server says of its run when it takes a node in.

    Attributes:
        base_fingerprint: SHA-256 of the base that the run adapts, 32 bytes; empty where any will do.
        stays: whether the server stays when the run is over, and another may follow.
    """

    run_id: int
    config: Mapping[str, Scalar]
    base_fingerprint: bytes
    stays: bool = False

    @property
    def is_none(self) -> bool:
        """Whether the server has no run for this node now."""
        return self.run_id == 0 and self.stays


@dataclass(frozen=True)
class Capacity:
    """What a node can do, as it tells the server.

    Attributes:
        base_fingerprint: SHA-256 of the base that it holds, 32 bytes.
        methods: adapter methods that it can train.
        device: what it computes with, in words.
        declined: why it takes no part in the run; None where it does.
    """

    base_fingerprint: bytes
    methods: tuple[str, ...]
    memory_bytes: int
    device: str
    declined: PlaitError | None = None


class TaskRunner(Protocol):
    """Does the tasks of one run."""

    @property
    def capacity(self) -> Capacity:
        """What this node can do."""
        ...

    def answer(self, task: Task, body: bytes) -> Answer:
        """Do a task.

        Raises:
            Abandoned: the result is no longer needed.
        """
        ...


@dataclass(eq=False)
class ParticipantRunner:
    """A participant at work on one run.

    Attributes:
        refusal: why the participant refused the newest task, in more words than it may tell the server.
    """

    participant: Answering
    _: KW_ONLY
    capacity: Capacity
    refusal: Callable[[], str] = lambda: ""

    def answer(self, task: Task, body: bytes) -> Answer:
        """Do a task; what goes wrong becomes an answer that says so, without a word of the data."""
        try:
            data = self.participant.answer(task.head + body)
        except Abandoned:
            raise
        except PlaitError as error:
            return Answer.failed(str(error))
        except Exception as error:
            # Libraries raise anything; the node outlives it.
            return Answer.failed(failure(error))
        return Answer.of(Kind.PLAIT, data, failure=self._refusal_in(data))

    def _refusal_in(self, data: bytes) -> str:
        """Why the participant refused, if it did."""
        if len(data) > _LARGEST_REFUSAL:
            return ""
        try:
            reply = decode_reply(data, max_bytes=_LARGEST_REFUSAL)
        except PeerError:
            return ""
        if not isinstance(reply, Refusal):
            return ""
        return f"{reply.reason.name.lower().replace('_', ' ')}: {self.refusal() or reply.detail}"


class DecliningRunner:
    """Tells the server why this node takes no part in a run, and does nothing else; no base and no data are needed.

    That is its policy's or its operator's decision, or the run's base, which it cannot have.
    """

    def __init__(self, run: Run, name: str, error: PlaitError) -> None:
        self.capacity = Capacity(run.base_fingerprint, (), 0, "declines", error)
        self._name = name

    def answer(self, task: Task, body: bytes) -> Answer:
        """Refuse, whatever is asked."""
        del task, body
        error = self.capacity.declined
        reason = RefusalReason.POLICY if isinstance(error, PolicyError) else RefusalReason.BASE_MISMATCH
        text = str(error)
        reply = encode_reply(Refusal(self._name, reason, text))
        return Answer.of(Kind.PLAIT, reply, failure=text)
