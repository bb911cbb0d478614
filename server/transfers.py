"""Uploads or downloads in progress: one for each node at a time, so many in all, and none slower than a least pace.

A newer transfer of a node takes the place of its older one, which may hang on a connection that is gone. Knows nothing
of what is transferred.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from plait.errors import PeerError

_MINUTE_S = 60.0


class Frequency:
    """How often each node began to fetch each body within the last minute; used in the event loop.

    gRPC takes a whole body of a few megabytes at once and keeps what the node does not read, out of sight. So that a
    node cannot pile it up, it may begin only so often.

    Args:
        most: times a minute.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: dict[tuple[str, bytes], deque[float]] = {}
        self._tidied = 0.0

    def allows(self, node: str, digest: bytes) -> bool:
        """Note one more beginning; False if it is one too many."""
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
    """How slow a transfer may be.

    Attributes:
        stall_s: the longest time without a chunk, and what a transfer is given on top of what its bytes may take.
        least_bytes_s: the least throughput over the whole transfer, in bytes a second.
    """

    stall_s: float = 30.0
    least_bytes_s: float = 65536.0


class CutOff(PeerError):  # noqa: N818 (it names what happened)
    """A transfer that the server ended; the node may go on with it later.

    Attributes:
        reason: superseded or stalled.
    """

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
        """Its turn has come: from now on it must keep the pace."""
        self._began = asyncio.get_running_loop().time()
        self.moved(0)

    def moved(self, count: int) -> None:
        """So many bytes more are through."""
        self._bytes += count
        pace = self._pace
        stalled = asyncio.get_running_loop().time() + pace.stall_s
        too_slow = self._began + pace.stall_s + self._bytes / pace.least_bytes_s
        if not self.superseded:
            self.clock.reschedule(min(stalled, too_slow))

    async def supersede(self) -> None:
        """Cut it off and wait until it has let go of all that it holds."""
        self.superseded = True
        with suppress(RuntimeError):  # it is ending already
            self.clock.reschedule(asyncio.get_running_loop().time())
        await self.over.wait()


class Transfers:
    """All transfers of one direction.

    Args:
        at_once: so many are in progress at a time, the others wait.
        pace: what each must keep.
    """

    def __init__(self, *, at_once: int, pace: Pace) -> None:
        self._slots = asyncio.Semaphore(at_once)
        self._pace = pace
        self._by_node: dict[str, Transfer] = {}

    @property
    def busy(self) -> bool:
        """Whether any is in progress or waits for its turn."""
        return bool(self._by_node)

    @asynccontextmanager
    async def turn(self, node: str) -> AsyncGenerator[Transfer]:
        """Wait for a turn and transfer something; an older transfer of the node is cut off first.

        Args:
            node: name of the node.

        Raises:
            CutOff: it was slower than the pace, or a newer transfer of the node took its place.
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
                raise CutOff("superseded", "a newer transfer of this node takes its place") from error
            raise CutOff(
                "stalled",
                f"no chunk for {self._pace.stall_s:g} s, or less than {self._pace.least_bytes_s / 1024:g} KiB/s; "
                "go on later",
            ) from error
        finally:
            del self._by_node[node]
            transfer.over.set()
