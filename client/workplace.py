"""Where the work of one run is done: the ClientApp, its context, and the base that the run adapts.

The app is run as it is; what it needs to know of its node is in the context that Flower gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Context, Message, RecordDict
from flwr.app.user_config import UserConfig

from client.flower_message import to_answer, to_message
from client.task import Answer, Kind, Task
from client.wording import failure
from plait.abandon import Abandoned
from plait.config import Scalar
from plait.errors import PlaitError, PolicyError
from plait.wire.messages import Refusal, RefusalReason, encode_reply


@dataclass(frozen=True)
class Run:
    """What a server says of its run when it takes a node in.

    Attributes:
        run_id: Flower's number of the run.
        node_id: Flower's number of the node.
        config: the run configuration.
        base_fingerprint: SHA-256 of the base that the run adapts, 32 bytes; empty where any will do.
    """

    run_id: int
    node_id: int
    config: Mapping[str, Scalar]
    base_fingerprint: bytes


@dataclass(frozen=True)
class Capacity:
    """What a node can do, as it tells the server.

    Attributes:
        base_fingerprint: SHA-256 of the base that it holds, 32 bytes.
        methods: adapter methods that it can train.
        memory_bytes: memory that it may use.
        device: what it computes with, in words.
        declined: why it takes no part in the run; None where it does.
    """

    base_fingerprint: bytes
    methods: tuple[str, ...]
    memory_bytes: int
    device: str
    declined: PolicyError | None = None


class Workplace(Protocol):
    """Does the tasks of one run."""

    @property
    def capacity(self) -> Capacity:
        """What this node can do."""
        ...

    def answer(self, task: Task, body: bytes) -> Answer:
        """Do a task.

        Raises:
            Abandoned: nobody waits for it any more.
        """
        ...


class AppWorkplace:
    """A ClientApp at work on one run, with a context that lives as long as the run.

    Args:
        app: Flower's ClientApp.
        run: the run.
        run_config: the run configuration as this node sees it.
        node_config: what the app is to know of its node.
        capacity: what the node can do.
    """

    def __init__(
        self,
        app: Callable[[Message, Context], Message],
        run: Run,
        *,
        run_config: UserConfig,
        node_config: UserConfig,
        capacity: Capacity,
    ) -> None:
        self.capacity = capacity
        self._app = app
        self._run = run
        self._context = Context(
            run_id=run.run_id,
            node_id=run.node_id,
            node_config=node_config,
            state=RecordDict(),
            run_config=run_config,
        )

    def answer(self, task: Task, body: bytes) -> Answer:
        """Do a task; what goes wrong becomes an answer that says so, without a word of the data."""
        try:
            message = to_message(task, body, run_id=self._run.run_id, node_id=self._run.node_id)
            return to_answer(self._app(message, self._context))
        except Abandoned:
            raise
        except PlaitError as error:
            return Answer.failed(str(error))
        except Exception as error:
            # An app may raise anything; the node outlives it.
            return Answer.failed(failure(error))


class DecliningWorkplace:
    """Tells the server why this node takes no part in a run, and does nothing else; no base and no data are needed.

    Args:
        run: the run.
        name: of the node.
        error: why.
    """

    def __init__(self, run: Run, name: str, error: PolicyError) -> None:
        self.capacity = Capacity(run.base_fingerprint, (), 0, "declines", error)
        self._name = name

    def answer(self, task: Task, body: bytes) -> Answer:
        """Refuse, whatever is asked."""
        del task, body
        text = str(self.capacity.declined)
        reply = encode_reply(Refusal(self._name, RefusalReason.POLICY, text))
        return Answer.of(Kind.PLAIT, reply, failure=text)
