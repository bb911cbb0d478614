"""A Flower `Grid` that runs the ClientApp in this process, one client after another or a few side by side.

The ServerApp and ClientApp are the same that run over a network: messages are real Flower messages with real envelope
bytes in them, only nobody carries them. A client works when its reply is pulled, so at most one reply is in memory;
where several train at once, the next ones of the round work with it, in the order in which they were asked.
Every import of flwr's internals that this needs is in this file.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from plait.errors import DiskFullError, Interrupted, PlaitError
from plait.files import disk_full_told
from plait.simulation.gathering import Gathering

SERVER_NODE = 1
"""Node number of the server; clients count on from `FIRST_CLIENT_NODE`."""
FIRST_CLIENT_NODE = 1000
"""Node number of the client with partition 0."""

_FAILED = 1
_TRAIN = "train"


@dataclass
class StopRequest:
    """Set `asked` (from a signal handler, say) and the run stops before the next client starts to work."""

    asked: bool = False


@dataclass(frozen=True)
class SideBySide:
    """Clients that train at once.

    Attributes:
        clients: how many at most.
        gathering: where their training is asked for.
    """

    clients: int
    gathering: Gathering[Any, Any]


class LocalGrid(Grid):
    """In-process grid over one ClientApp and as many nodes as there are node configurations.

    Args:
        client_app: the ClientApp that every node runs.
        node_configs: one configuration a node, by node number.
        run_config: the run configuration that every node sees.
        run_id: Flower's number of the run.
        stop: stops the run between two clients.
        side_by_side: clients that train at once; one after another without it.
    """

    def __init__(
        self,
        client_app: ClientApp,
        node_configs: Mapping[int, UserConfig],
        *,
        run_config: UserConfig,
        run_id: int,
        stop: StopRequest | None = None,
        side_by_side: SideBySide | None = None,
    ) -> None:
        self._app = client_app
        self._run = Run.create_empty(run_id)
        self._stop = stop or StopRequest()
        self._side_by_side = side_by_side
        self._waiting: dict[str, Message] = {}
        self._answered: dict[str, Message] = {}
        self._contexts = {
            node: Context(
                run_id=run_id, node_id=node, node_config=dict(config), state=RecordDict(), run_config=run_config
            )
            for node, config in node_configs.items()
        }
        # flwr reads the identity of the process when a message is made.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SERVER_NODE, 0

    def set_run(self, run: Run) -> None:
        """Take over Flower's description of the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """Flower's description of the run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, always reachable."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; nobody works on them before their replies are pulled."""
        ids: list[str] = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
            self._waiting[message.metadata.message_id] = message
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let the addressed clients work, one after the other, and return their replies.

        Raises:
            Interrupted: the run was asked to stop.
            DiskFullError: a client's disk, which is this machine's, is full.
        """
        replies: list[Message] = []
        for message_id in message_ids:
            if message_id in self._waiting:
                if self._stop.asked:
                    raise Interrupted("stopped by the user; everything received so far is saved")
                self._work_from(message_id)
            if (reply := self._answered.pop(message_id, None)) is not None:
                replies.append(reply)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push and pull in one go; in process there is nothing to wait for."""
        del timeout
        return self.pull_messages(self.push_messages(messages))

    def _work_from(self, message_id: str) -> None:
        """Let the addressed client work, and those of the same round with it that are to train side by side."""
        first, beside = self._waiting[message_id].metadata, self._side_by_side
        chosen = [message_id]
        if beside is not None and first.message_type == _TRAIN:
            alike = (
                other
                for other, message in self._waiting.items()
                if other != message_id
                and (message.metadata.message_type, message.metadata.group_id) == (_TRAIN, first.group_id)
            )
            chosen += islice(alike, beside.clients - 1)
        works = [partial(self._work, self._waiting.pop(each)) for each in chosen]
        replies = [works[0]()] if beside is None or len(works) == 1 else beside.gathering.run(works)
        self._answered.update(zip(chosen, replies, strict=True))

    def _work(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        try:
            with disk_full_told():
                reply = self._app(message, context)
        except DiskFullError:
            raise
        except PlaitError as error:
            reply = Message(Error(_FAILED, str(error)), reply_to=message)
        reply.metadata.__dict__["_message_id"] = uuid.uuid4().hex
        return reply


def run_in_process(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    run_config: UserConfig,
    nodes: int,
    stop: StopRequest | None = None,
    side_by_side: SideBySide | None = None,
) -> None:
    """Run the two apps against each other in this process.

    Args:
        server_app: Flower ServerApp.
        client_app: Flower ClientApp.
        run_config: run configuration both see.
        nodes: how many clients; node k is configured with ``partition-id = k`` and ``num-partitions = nodes``, as
            Flower's own simulation does.
        stop: stops the run between two clients.
        side_by_side: clients that train at once.
    """
    run_id = uuid.uuid4().int >> 65
    configs: dict[int, UserConfig] = {
        FIRST_CLIENT_NODE + index: {"partition-id": index, "num-partitions": nodes} for index in range(nodes)
    }
    grid = LocalGrid(client_app, configs, run_config=run_config, run_id=run_id, stop=stop, side_by_side=side_by_side)
    context = Context(run_id=run_id, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config=run_config)
    server_app(grid, context)
