"""Uploads or downloads in progress: one per node at a time, a limited number in all, none below a minimum rate.

A newer transfer of a node replaces its older one, which may hang on a lost connection. `Limits` has these bounds and
all others on what nodes and strangers may use of a server. Knows nothing of the content.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from plait.errors import PeerError

_MINUTE_S = 60.0


class Frequency:
    """How often each node began to download each body within the last minute; used in the event loop.

    gRPC buffers a whole body of a few megabytes at once, unread by the node. The limit on starts keeps a node from
    piling it up.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: dict[tuple[str, bytes], deque[float]] = {}
        self._tidied = 0.0

    def allows(self, node: str, digest: bytes) -> bool:
        """Count one more start; False if it is one too many."""
        now = asyncio.get_running_loop().time()
        if now - self._tidied > _MINUTE_S:
            self._begun = {key: times for key, times in self._begun.items() if now - times[-1] <= _MINUTE_S}
            self._tidied = now
        times = self._begun.setdefault((node, digest), deque(maxlen=self._most))
        if len(times) == self._most and now - times[0] <= _MINUTE_S:
            return False
        times.append(now)
        return True


@dataclass(frozen=True)
class Pace:
    """The minimum rate of a transfer.

    Attributes:
        stall_s: the longest time without a chunk, and the time allowed in addition to that of the bytes.
        least_bytes_s: minimum average throughput, in bytes per second.
    """

    stall_s: float = 30.0
    least_bytes_s: float = 65536.0


class CutOff(PeerError):  # noqa: N818 (it names what happened)
    """A transfer that the server ended; the node may resume it later."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Transfer:
    """One transfer in progress; made and used in the event loop."""

    def __init__(self, pace: Pace) -> None:
        self.clock = asyncio.timeout(None)
        self.over = asyncio.Event()
        self.superseded = False
        self._pace = pace
        self._bytes = 0
        self._began = 0.0

    def begin(self) -> None:
        """Its turn has come: from now on it must keep the rate."""
        self._began = asyncio.get_running_loop().time()
        self.moved(0)

    def moved(self, count: int) -> None:
        """Count transferred bytes."""
        self._bytes += count
        pace = self._pace
        stalled = asyncio.get_running_loop().time() + pace.stall_s
        too_slow = self._began + pace.stall_s + self._bytes / pace.least_bytes_s
        if not self.superseded:
            self.clock.reschedule(min(stalled, too_slow))

    async def supersede(self) -> None:
        """Cut it off and wait until it has released everything."""
        self.superseded = True
        with suppress(RuntimeError):  # it has ended already
            self.clock.reschedule(asyncio.get_running_loop().time())
        await self.over.wait()


class Transfers:
    """All transfers of one direction.

    Args:
        at_once: number in progress at a time; the others wait.
    """

    def __init__(self, *, at_once: int, pace: Pace) -> None:
        self._slots = asyncio.Semaphore(at_once)
        self._pace = pace
        self._by_node: dict[str, Transfer] = {}

    @property
    def busy(self) -> bool:
        """Whether any is in progress or waiting."""
        return bool(self._by_node)

    @asynccontextmanager
    async def turn(self, node: str) -> AsyncGenerator[Transfer]:
        """Wait for a turn and transfer; an older transfer of the node is cut off first.

        Raises:
            CutOff: it was too slow, or a newer transfer of the node replaced it.
        """
        while (older := self._by_node.get(node)) is not None:
            await older.supersede()
        transfer = self._by_node[node] = Transfer(self._pace)
        try:
            async with transfer.clock, self._slots:
                transfer.begin()
                yield transfer
        except TimeoutError as error:
            if transfer.superseded:
                raise CutOff("superseded", "a newer transfer of this node replaces it") from error
            raise CutOff(
                "stalled",
                f"no chunk for {self._pace.stall_s:g} s, or less than {self._pace.least_bytes_s / 1024:g} KiB/s; "
                "resume it later",
            ) from error
        finally:
            del self._by_node[node]
            transfer.over.set()


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Attributes:
        max_answer_bytes: larger answers are refused before anything is received.
        grace_s: the tasks of a node that is away for longer are given up.
        max_nodes: the most nodes that may be attached.
        max_unproven: the most nodes that may enrol at a time; more wait, at most two of one certificate's name.
        strangers: connections besides these, for operators and for peers that prove nothing.
        handshake_s: seconds a node has to prove its key, and an upload to announce itself.
        transfers_at_once: the most uploads, and the most downloads, at a time while others wait. An upload takes about
            3 MB of memory, a download 2 MB.
        pace: the minimum rate of an upload or a download.
    """

    max_answer_bytes: int
    grace_s: float = 30.0
    max_nodes: int = 10_000
    max_unproven: int = 256
    strangers: int = 4096
    handshake_s: float = 10.0
    transfers_at_once: int = 32
    pace: Pace = field(default_factory=Pace)

    @property
    def max_connections(self) -> int:
        """The most connections at a time."""
        return self.max_nodes + self.max_unproven + self.strangers
