"""Flower's apps over plait's parts: its Grid as a `Channel`, bytes in its messages, a client's state in its context.

Flower's engines start the apps by name from `server/app.py` and `client/app.py`.

plait's bytes are one uint8 array or two, so that Flower frames them once: hundreds of small tensors take it tens of
seconds per round. A task is its own head and a body that all tasks of a round share and that is never copied here.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from plait.config import Scalar
from plait.errors import Abandoned, ConfigError, DiskFullError, PeerError, PlaitError
from plait.flower.compression import STYPE, blob
from plait.rounds.channel import (
    Answering,
    Channel,
    Clock,
    Data,
    Exchange,
    NoAnswer,
    Purpose,
    StopRequest,
    TaskParts,
)
from plait.rounds.memory import MUST_LAST
from plait.transport.protocol import MESSAGE_TYPES

_SHORTEST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0
_RECORD = "plait"
_HEAD, _BODY = "head", "body"


class GridChannel(Channel):
    """Sends tasks to the nodes of a grid and pulls answers one at a time, so that at most one is in memory."""

    open_ended = True

    def __init__(self, grid: Grid, stop: StopRequest | None = None) -> None:
        self.grid = grid
        self._stop = stop or StopRequest()
        self.clock = Clock()

    def nodes(self, at_least: int) -> Sequence[int]:
        """All connected nodes, once there are enough."""
        pause_s = _SHORTEST_PAUSE_S
        while len(nodes := sorted(self.grid.get_node_ids())) < at_least:
            self.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return nodes

    def wait(self, timeout_s: float) -> None:
        """Wait so long: Flower notifies nobody. RunInterrupted if the run was asked to stop."""
        self._stop.check()
        time.sleep(timeout_s)

    def exchange(self, purpose: Purpose, group: str) -> "GridExchange":
        """Begin to send tasks."""
        return GridExchange(self, purpose, group)


class GridExchange(Exchange):
    """An exchange over a grid."""

    def __init__(self, channel: GridChannel, purpose: Purpose, group: str) -> None:
        self._channel, self._grid = channel, channel.grid
        self._message_type, self._group = MESSAGE_TYPES[purpose], group
        self._waiting: dict[str, int] = {}
        self._unsent: deque[int] = deque()

    def __exit__(self, *_: object) -> None:
        self._waiting.clear()

    def send(self, node: int, task: TaskParts, group: str = "") -> None:
        """Send a task to a node."""
        # One at a time: for a message that it could not send, a grid may leave the id empty or out.
        message = self._grid.create_message(to_content(*task), self._message_type, node, group or self._group)
        if message_id := next(iter(self._grid.push_messages([message])), ""):
            self._waiting[message_id] = node
        else:
            self._unsent.append(node)

    def withdraw(self, node: int, reason: str) -> None:
        """Stop waiting for a node's answer."""
        del reason
        self._waiting = {message_id: asked for message_id, asked in self._waiting.items() if asked != node}

    def receive(self, timeout_s: float | None) -> tuple[int, Data | NoAnswer] | None:
        """Wait for the next answer."""
        if self._unsent:
            node = self._unsent.popleft()
            return node, NoAnswer(f"node {node} could not be sent its task")
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = _SHORTEST_PAUSE_S
        while self._waiting:
            if found := self._next():
                return found
            if deadline is not None:
                pause_s = min(pause_s, deadline - time.monotonic())
                if pause_s <= 0:
                    return None
            self._channel.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return None

    def _next(self) -> tuple[int, Data | NoAnswer] | None:
        # Flower's grids read all replies that are asked for at once.
        for message_id, node in list(self._waiting.items()):
            for reply in self._grid.pull_messages([message_id]):
                del self._waiting[message_id]
                try:
                    return node, from_message(reply)
                except PeerError as error:
                    return node, NoAnswer(str(error))
        return None


def to_content(head: bytes, body: bytes = b"") -> RecordDict:
    """Wrap bytes as the content of a Flower message."""
    parts = {_HEAD: head, _BODY: body} if body else {_HEAD: head}
    return RecordDict({_RECORD: ArrayRecord({name: blob(part) for name, part in parts.items()})})


def from_message(message: Message) -> bytes:
    """The bytes in a Flower message, head and body together; PeerError for an error, or anything else in it."""
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


class ContextMemory:
    """A `plait.rounds.memory.ClientStore` in the state that Flower keeps for a client from message to message."""

    def __init__(self, context: Context) -> None:
        self._state = context.state

    def load(self, key: str) -> bytes | None:
        """The bytes stored under `key`."""
        record = self._state.get(f"plait.{key}")
        return record["bytes"].data if isinstance(record, ArrayRecord) else None

    def save(self, key: str, data: bytes) -> None:
        """Store `data` under `key`; ConfigError if it must last, for Flower keeps it in the node's memory."""
        if key in MUST_LAST:
            raise ConfigError(
                "dp of the run is 'record' and this node's state is Flower's, which ends with the node: "
                "add state=DIRECTORY to the node's configuration"
            )
        self._state[f"plait.{key}"] = ArrayRecord({"bytes": blob(data)})


_FAILED = 1


def server_app(
    federation: Callable[[Channel, Mapping[str, Scalar], str | None], object], stop: StopRequest | None = None
) -> ServerApp:
    """A ServerApp that runs a federation, given the run configuration, over Flower's grid.

    On a network its data are left out of the configuration and given beside it; elsewhere None is.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        settings, named = context.run_config, None
        # By its name: its place has moved within Flower, and importing it needs Ray.
        if type(grid).__name__ != "InMemoryGrid":
            # The nodes of a network bring their own, or take a part of these; the setting's default names some.
            settings, named = {**settings, "data": ""}, str(settings.get("data", ""))
        federation(GridChannel(grid, stop), settings, named)

    return app


def client_app(participant: Callable[[Context], Answering]) -> ClientApp:
    """A ClientApp that passes the bytes of every message to a participant, and returns its answer."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        try:
            reply = participant(context).answer(from_message(message))
        except (Abandoned, DiskFullError):
            raise
        except PlaitError as error:
            # Flower would send the class's name with it, and print a traceback here.
            return Message(Error(_FAILED, str(error)), reply_to=message)
        return Message(to_content(reply), reply_to=message)

    for register in (app.query, app.train, app.evaluate):
        register()(answer)
    for register, purpose in ((app.query, Purpose.MASK), (app.evaluate, Purpose.JUDGE)):
        register(MESSAGE_TYPES[purpose].partition(".")[2])(answer)
    return app
