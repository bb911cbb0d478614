"""Nodes and their connections: which are connected, proven and ready, and the next messages to each."""

import asyncio
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from plait.transport.protocol import SESSION_BYTES, node_number
from plait.v1 import federation_pb2 as pb


@dataclass(frozen=True, slots=True)
class Fitness:
    """A node's statement when it is ready."""

    methods: tuple[str, ...]
    memory_bytes: int
    device: str


@dataclass(eq=False, slots=True)
class KnownNode:
    """A node that has proved its key at least once; `number` is the run's name for it, `left` when it left."""

    name: str
    public_key: bytes
    number: int
    version: str = ""
    session: "NodeSession | None" = None
    left: float = field(default_factory=time.monotonic)
    downlink_bytes: int = 0
    uplink_bytes: int = 0
    uploads: int = 0
    moved: float = 0.0

    def sent(self, count: int) -> None:
        """Count bytes that were sent to it."""
        self.downlink_bytes += count
        self.moved = time.monotonic()

    def received(self, count: int) -> None:
        """Count bytes that came from it."""
        self.uplink_bytes += count
        self.moved = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """Whether it is connected and can work."""
        return self.session is not None and self.session.fitness is not None


@dataclass(eq=False, slots=True)
class NodeSession:
    """One connection of a node, from its proof to its end; its `token` authorises the node's other calls of its run."""

    node: KnownNode
    arrival: int
    run_id: int = 0
    token: bytes = field(default_factory=lambda: secrets.token_bytes(SESSION_BYTES), repr=False)
    since: float = field(default_factory=time.monotonic)
    fitness: Fitness | None = None
    doing: str = ""
    doing_since: float = field(default_factory=time.monotonic)
    is_open: bool = True
    # An empty deque takes 760 bytes, an event has one, and thousands of sessions are idle.
    _outbox: list[pb.ToNode] = field(default_factory=list[pb.ToNode], repr=False)
    _waiting: asyncio.Future[None] | None = field(default=None, repr=False)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop, repr=False)

    def put(self, event: pb.ToNode) -> None:
        """Queue a message for the node; from any thread."""
        self._outbox.append(event)
        # Waking the loop of a busy service costs far more than the rest.
        if len(self._outbox) == 1:
            self._nudge()

    def close(self, last: pb.ToNode | None = None) -> None:
        """End it once all messages, and `last`, are sent; from any thread."""
        if last is not None:
            self._outbox.append(last)
        self.is_open = False
        self._nudge()

    async def next(self) -> pb.ToNode | None:
        """The next message to the node; None once all are sent and the session is over."""
        while True:
            # Before the queue: another thread that closes it has queued its last message by then.
            is_open = self.is_open
            if self._outbox:
                return self._outbox.pop(0)
            if not is_open:
                return None
            self._waiting = self._loop.create_future()
            await self._waiting

    def _nudge(self) -> None:
        # The loop is closed only when the server is down and no node is left.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Sessions:
    """All nodes; `changed` is the lock over everything, tasks included."""

    def __init__(self, *, max_nodes: int) -> None:
        self._max_nodes = max_nodes
        self.changed = self._changed = threading.Condition()
        self._by_name: dict[str, KnownNode] = {}
        self._by_number: dict[int, KnownNode] = {}
        self._by_token: dict[bytes, NodeSession] = {}

    @property
    def attached(self) -> int:
        """Number of connected nodes, ready or not."""
        return len(self._by_token)

    def has_newer(self, name: str, *, arrival: int) -> bool:
        """Whether a node has a session whose call arrived after this one."""
        node = self._by_name.get(name)
        return node is not None and node.session is not None and node.session.arrival > arrival

    def attach(self, name: str, public_key: bytes, *, arrival: int, version: str = "") -> NodeSession | None:
        """Begin a session; an older one of the same node is closed as replaced."""
        with self._changed:
            node = self._by_name.get(name)
            if node is None or node.session is None:
                if self.attached >= self._max_nodes:
                    return None
            else:
                self._end(node.session, last=_REPLACED)
            if node is None:
                self._make_room()
                node = KnownNode(name, public_key, node_number(name))
                self._by_name[name] = self._by_number[node.number] = node
            node.public_key = public_key
            node.version = version
            node.session = session = NodeSession(node, arrival)
            self._by_token[session.token] = session
            return session

    def move(self, session: NodeSession, run_id: int) -> None:
        """The node of an open session works for another run, or none: its earlier token is void."""
        with self._changed:
            if not session.is_open:
                return
            self._by_token.pop(session.token, None)
            session.token, session.run_id, session.fitness = secrets.token_bytes(SESSION_BYTES), run_id, None
            self._by_token[session.token] = session

    def leave(self, session: NodeSession) -> None:
        """End a session, unless another has replaced it already."""
        with self._changed:
            self._end(session, last=None)

    def find(self, token: bytes) -> NodeSession | None:
        """The open session of a token."""
        return self._by_token.get(token)

    def node(self, number: int) -> KnownNode | None:
        """The node of a number; None if it never connected."""
        return self._by_number.get(number)

    def named(self, name: str) -> KnownNode | None:
        """The node of a name; None if it never connected."""
        return self._by_name.get(name)

    def ready(self, run_id: int) -> list[KnownNode]:
        """The nodes that can work for a run, by name."""
        with self._changed:
            nodes = self._by_name.values()
            ready = (node for node in nodes if node.session and node.is_ready and node.session.run_id == run_id)
            return sorted(ready, key=lambda node: node.name)

    def all(self) -> list[KnownNode]:
        """All nodes, by name, including those that are away."""
        with self._changed:
            return sorted(self._by_name.values(), key=lambda node: node.name)

    def close_all(self, last: pb.ToNode) -> None:
        """End all sessions once their messages, and this one, are sent."""
        with self._changed:
            for session in list(self._by_token.values()):
                self._end(session, last=last)

    def _end(self, session: NodeSession, last: pb.ToNode | None) -> None:
        session.close(last if session.is_open else None)
        self._by_token.pop(session.token, None)
        if session.node.session is session:
            session.node.session = None
            session.node.left = time.monotonic()

    def _make_room(self) -> None:
        """Forget the node that has been away longest, if there are twice as many as may connect."""
        if len(self._by_name) >= 2 * self._max_nodes:
            longest = min((n for n in self._by_name.values() if n.session is None), key=lambda node: node.left)
            del self._by_name[longest.name], self._by_number[longest.number]


REPLACED_DETAIL = "this node has connected again, and only its newest connection counts"
_REPLACED = pb.ToNode(refused=pb.Refused(reason=pb.REFUSED_REASON_REPLACED, detail=REPLACED_DETAIL))
