"""A Flower `Grid` for a transport that carries tasks as bytes: Flower messages in, bytes out, and back.

plait's server over gRPC is built on it (`server/grpc_grid.py`). Knows nothing of connections.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from plait.config import Scalar
from plait.flower.blob import parts_of, to_content
from plait.flower.message import SERVER_NODE, error_reply, instruction
from plait.rounds.channel import Data, NoAnswer


@dataclass(frozen=True)
class GivenTask:
    """A task for a node.

    Attributes:
        message_type: Flower's.
        group: Flower's; the round.
        body: bytes that it may share with other tasks.
    """

    node: int
    message_type: str
    group: str
    head: bytes
    body: bytes


@dataclass(frozen=True)
class TakenAnswer:
    """The result of a task.

    Attributes:
        message_id: the name that `ByteGrid.give` returned.
        data: the answer, or why there is none.
    """

    message_id: str
    data: Data | NoAnswer


class ByteGrid(Grid):
    """Flower's interface over `give` and `take`.

    Args:
        run_id: Flower's id of the run.
        run_config: for a ServerApp that runs here.
    """

    def __init__(self, *, run_id: int, run_config: Mapping[str, Scalar]) -> None:
        self._run_id = run_id
        self._run_config = dict(run_config)
        self._run: Any = None
        self._sent: dict[str, Message] = {}

    @abstractmethod
    def give(self, task: GivenTask) -> str:
        """Send a task; returns its name, or nothing if the node is unknown."""

    @abstractmethod
    def take(self, message_ids: Iterable[str]) -> Iterator[TakenAnswer]:
        """The results of these tasks; each is taken once, when the iterator reaches it."""

    @abstractmethod
    def wait(self, timeout_s: float | None) -> None:
        """Block until something may have changed, or until the time is over."""

    def drive(self, app: ServerApp) -> None:
        """Run a ServerApp over this grid, to its end."""
        context = Context(
            run_id=self._run_id,
            node_id=SERVER_NODE,
            node_config={},
            state=RecordDict(),
            run_config=dict(self._run_config),
        )
        app(self, context)

    def take_up(self, run_id: int, run_config: Mapping[str, Scalar]) -> None:
        """Serve another run from now on."""
        self._run_id, self._run_config = run_id, dict(run_config)
        self._sent.clear()

    def set_run(self, run: Any) -> None:
        """Set Flower's description of the run."""
        self._run = run

    @property
    def run(self) -> Any:
        """Flower's description of the run, if set."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message to one node."""
        return instruction(
            content, message_type, dst_node_id=dst_node_id, group_id=group_id, run_id=self._run_id, ttl=ttl
        )

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages.

        Returns:
            A name for each, in order; empty for one to an unknown node.

        Raises:
            ValueError: one holds records of another app than plait's.
        """
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        metadata, parts = message.metadata, parts_of(message.content)
        if parts is None:
            raise ValueError("the message holds records of another app, expected plait's bytes")
        message_id = self.give(GivenTask(metadata.dst_node_id, metadata.message_type, metadata.group_id, *parts))
        if message_id:
            # The parts of the message that a reply needs, without its content.
            self._sent[message_id] = instruction(
                RecordDict(),
                metadata.message_type,
                dst_node_id=metadata.dst_node_id,
                group_id=metadata.group_id,
                message_id=message_id,
                run_id=self._run_id,
            )
        return message_id

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The available replies."""
        for taken in self.take(message_ids):
            sent = self._sent.pop(taken.message_id, None)
            if sent is not None:
                yield _reply(taken, reply_to=sent)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and collect the replies; late ones can still be pulled."""
        waiting = {message_id for message_id in self.push_messages(messages) if message_id}
        end = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while True:
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
            left_s = None if end is None else end - time.monotonic()
            if not waiting or (left_s is not None and left_s <= 0):
                return replies
            self.wait(left_s)

    def forget(self, message_ids: Iterable[str]) -> None:
        """Nobody will ask for these replies."""
        for message_id in message_ids:
            self._sent.pop(message_id, None)


def _reply(taken: TakenAnswer, *, reply_to: Message) -> Message:
    """An answer as a reply."""
    if isinstance(taken.data, NoAnswer):
        return error_reply(taken.data.detail, reply_to=reply_to)
    return Message(to_content(taken.data), reply_to=reply_to)
