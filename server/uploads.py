"""Incoming answers: checked before anything is buffered, written as they arrive, one receipt at the end.

A node whose upload breaks off resumes it later. Small answers come whole, over the node's long call; those that come
while the disk is busy are made durable by one write. Of uploads and downloads a node has one at a time, and a limited
number are in progress in all, none below a minimum rate: a newer transfer of a node replaces its older one, which may
hang on a lost connection.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from plait.errors import DiskFullError, MachineError, PeerError
from plait.system.machine import give_back_memory
from plait.transport.protocol import CHUNK_BYTES, DIGEST_BYTES, HEAD_BYTES, Data
from plait.v1 import federation_pb2 as pb
from server.inbox import Inbox, Incoming, SmallAnswer
from server.monitoring import Metrics, log
from server.sessions import NodeSession
from server.tasks import DURABLE_TYPE, ServerTask, TaskRegistry, TaskState

UploadParts: TypeAlias = "AsyncIterator[Data | pb.UploadStart]"
_MINUTE_S = 60.0


class Frequency:
    """How often each node began to download each body within the last minute.

    gRPC buffers a body of a few megabytes unread by the node, which could pile it up.
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


class TransferRefused(PeerError):  # noqa: N818 (it names what happened)
    """A transfer that the server refuses, or cuts off; with `retry` the node may resume it later."""

    def __init__(self, reason: str, detail: str, *, retry: bool) -> None:
        super().__init__(detail)
        self.reason = reason
        self.retry = retry


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Attributes:
        grace_s: the tasks of a node that is away for longer are given up.
        max_unproven: the most nodes that may enrol at a time; more wait, at most two of one certificate's name.
        strangers: connections besides these, for operators and for peers that prove nothing.
        handshake_s: seconds a node has to prove its key, and an upload to announce itself.
        transfers_at_once: uploads, of about 3 MB of memory each, and downloads, of 2 MB, while others wait.
        stall_s: the longest time of an upload or a download without a chunk; `least_bytes_s` is its minimum rate.
    """

    max_answer_bytes: int
    grace_s: float = 30.0
    max_nodes: int = 10_000
    max_unproven: int = 256
    strangers: int = 4096
    handshake_s: float = 10.0
    transfers_at_once: int = 32
    stall_s: float = 30.0
    least_bytes_s: float = 65536.0


class Transfer:
    """One transfer in progress; made and used in the event loop."""

    def __init__(self, limits: Limits) -> None:
        self.clock = asyncio.timeout(None)
        self.over = asyncio.Event()
        self.superseded = False
        self._limits = limits
        self._bytes = 0
        self._began = 0.0

    def begin(self) -> None:
        """Its turn has come: from now on it must keep the rate."""
        self._began = asyncio.get_running_loop().time()
        self.moved(0)

    def moved(self, count: int) -> None:
        """Count transferred bytes."""
        self._bytes += count
        stalled = asyncio.get_running_loop().time() + self._limits.stall_s
        too_slow = self._began + self._limits.stall_s + self._bytes / self._limits.least_bytes_s
        if not self.superseded:
            self.clock.reschedule(min(stalled, too_slow))

    async def supersede(self) -> None:
        """End it and wait until it has released everything."""
        self.superseded = True
        with suppress(RuntimeError):  # it has ended already
            self.clock.reschedule(asyncio.get_running_loop().time())
        await self.over.wait()


class Transfers:
    """All transfers of one direction."""

    def __init__(self, limits: Limits) -> None:
        self._slots = asyncio.Semaphore(limits.transfers_at_once)
        self._limits = limits
        self._by_node: dict[str, Transfer] = {}

    @property
    def busy(self) -> bool:
        """Whether any is in progress or waiting."""
        return bool(self._by_node)

    @asynccontextmanager
    async def turn(self, node: str) -> AsyncGenerator[Transfer]:
        """Wait for a turn and transfer; an older transfer of the node is cut off first."""
        while (older := self._by_node.get(node)) is not None:
            await older.supersede()
        transfer = self._by_node[node] = Transfer(self._limits)
        try:
            async with transfer.clock, self._slots:
                transfer.begin()
                yield transfer
        except TimeoutError as error:
            if transfer.superseded:
                raise TransferRefused("superseded", "a newer transfer of this node replaces it", retry=True) from error
            rate = f"less than {self._limits.least_bytes_s / 1024:g} KiB/s"
            detail = f"no chunk for {self._limits.stall_s:g} s, or {rate}; resume it later"
            raise TransferRefused("stalled", detail, retry=True) from error
        finally:
            del self._by_node[node]
            transfer.over.set()


_MAX_ERROR_BYTES = 4096
_MAX_MISMATCHES = 3
_TIDY_BYTES = 256 << 20
_TIDY_ANSWERS = 500


class _Settled(Exception):  # noqa: N818 (it names what happened)
    """The answer is no longer needed."""


class Uploads:
    """Receives the answers of all nodes; threads of `disk` write files, so that the event loop never waits."""

    def __init__(self, inbox: Inbox, tasks: TaskRegistry, *, disk: Executor, limits: Limits, metrics: Metrics) -> None:
        self._inbox = inbox
        self._tasks = tasks
        self._disk = disk
        self._max_answer_bytes = limits.max_answer_bytes
        self._transfers = Transfers(limits)
        self._metrics = metrics
        self._untidy_bytes = self._untidy_answers = 0
        self._gathered: list[SmallAnswer] = []
        self._storing: asyncio.Task[None] | None = None

    def held(self, node: str, request: pb.HeldRequest) -> pb.HeldReply:
        """The bytes held of an answer."""
        state, _ = self._tasks.find(node, request.task_id)
        match state:
            case None:
                return pb.HeldReply(unknown=True)
            case TaskState.ANSWERED:
                return pb.HeldReply(complete=True)
            case TaskState.FAILED | TaskState.WITHDRAWN:
                return pb.HeldReply(late=True)
            case TaskState.PENDING | TaskState.DELIVERED:
                return pb.HeldReply(offset=self._inbox.held_bytes(node, request.task_id, request.sha256))

    def tidy(self) -> None:
        """Return the memory of many answers to the system once the last of them is here; call it now and then."""
        is_due = self._untidy_bytes >= _TIDY_BYTES or self._untidy_answers >= _TIDY_ANSWERS
        if is_due and not self._transfers.busy:
            self._untidy_bytes = self._untidy_answers = 0
            self._disk.submit(give_back_memory)

    async def take(self, session: NodeSession, start: pb.UploadStart, more: UploadParts) -> pb.Receipt:
        """Receive one answer."""
        node = session.node.name
        with self._logged(node, start.task_id):
            state, task = self._tasks.find(node, start.task_id)
            if state is None:
                raise TransferRefused("unknown-task", "this task has not been assigned, or not again yet", retry=True)
            if task is None or not task.is_open:
                return self._receipt(start.task_id, node, kept=state is TaskState.ANSWERED)
            self._check(task, start.content, start.size)
            if len(start.sha256) != DIGEST_BYTES:
                raise TransferRefused("malformed", f"SHA-256 has {len(start.sha256)} bytes, expected 32", retry=False)
            async with self._transfers.turn(node) as transfer:
                parts = self._parts(session, task, more, transfer)
                kept, new = await self._receive(session, start, task, parts)
            return self._receipt(start.task_id, node, kept=kept, new_bytes=start.size if new else None)

    async def take_small(self, session: NodeSession, answer: pb.Answer) -> bool:
        """Receive a whole answer that came over the long call, and send its receipt; whether it was waited for."""
        node, size = session.node.name, len(answer.data)
        with self._logged(node, answer.task_id):
            if size > HEAD_BYTES:
                detail = f"answer has {size} bytes, expected at most {HEAD_BYTES}"
                raise TransferRefused("malformed", detail, retry=False)
            state, task = self._tasks.find(node, answer.task_id)
            if state is None:
                return False  # of a run that the node no longer works for
            kept, new_bytes = state is TaskState.ANSWERED, None
            if task is not None and task.is_open:
                self._check(task, answer.content, size)
                session.node.received(size)
                self._metrics.uplink_bytes.inc(size)
                await self._stored(SmallAnswer((node, answer.task_id), answer.content, answer.data))
                kept, new_bytes = self._tasks.answer(task, session), size
            receipt = self._receipt(answer.task_id, node, kept=kept, new_bytes=new_bytes)
            receipt.task_id = answer.task_id
            session.put(pb.ToNode(receipt=receipt))
            return new_bytes is not None

    @contextmanager
    def _logged(self, node: str, task_id: str) -> Generator[None]:
        try:
            yield
        except TransferRefused as refused:
            self._metrics.answers_refused.labels(refused.reason).inc()
            log("answer-refused", reason=refused.reason, detail=refused, node=node, task=task_id)
            raise
        except MachineError as error:
            self._metrics.answers_refused.labels("disk").inc()
            log("disk", level=logging.ERROR, detail=error)
            if isinstance(error, DiskFullError):
                self._tasks.stop(error)
            raise

    def _receipt(self, task_id: str, node: str, *, kept: bool, new_bytes: int | None = None) -> pb.Receipt:
        if not kept:
            self._metrics.answers_late.inc()
            log("answer-late", node=node, task=task_id)
        elif new_bytes is not None:
            self._untidy_answers += 1
            self._metrics.answers_received.inc()
            log("answer", size=new_bytes, node=node, task=task_id)
        return pb.Receipt(kept=kept)

    def _stored(self, answer: SmallAnswer) -> Awaitable[None]:
        """Once an answer is on disk, with all others that came while the disk was busy."""
        self._gathered.append(answer)
        if len(self._gathered) == 1 or self._storing is None:
            self._storing = asyncio.create_task(self._store(self._storing))
            self._storing.add_done_callback(_retrieve_error)
        return asyncio.shield(self._storing)

    async def _store(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        answers, self._gathered = self._gathered, []
        await asyncio.get_running_loop().run_in_executor(self._disk, self._inbox.store, answers)

    def _check(self, task: ServerTask, content: int, size: int) -> None:
        limit = _MAX_ERROR_BYTES if content == pb.CONTENT_ERROR else self._max_answer_bytes
        if size > limit:
            reason, detail = "too-large", f"answer has {size} bytes, expected at most {limit}"
        elif content not in (pb.CONTENT_PLAIT, pb.CONTENT_ERROR):
            reason, detail = "malformed", f"content is {int(content)}, expected 1, or 2 for an error"
        else:
            return
        # No retry can do better, so the round need not wait for one.
        self._tasks.fail(task, f"node {task.node}: {detail}")
        raise TransferRefused(reason, detail, retry=False)

    async def _receive(
        self, session: NodeSession, start: pb.UploadStart, task: ServerTask, parts: AsyncGenerator[Data]
    ) -> tuple[bool, bool]:
        try:
            whole = await self._write_as_it_comes(task, start, parts)
        except _Settled:
            return task.state is TaskState.ANSWERED, False
        except PeerError as error:
            if isinstance(error, TransferRefused):
                raise
            raise TransferRefused("lying-size", str(error), retry=True) from error
        except MachineError:
            if task.is_open:
                raise
            # Withdrawn, and its file removed, at this very moment.
            return False, False
        if not whole:
            task.mismatches += 1
            detail = "answer's SHA-256 is not what was announced"
            if task.mismatches >= _MAX_MISMATCHES:
                self._tasks.fail(task, f"node {task.node}: {detail}")
            raise TransferRefused("wrong-digest", detail, retry=task.is_open)
        return self._tasks.answer(task, session), True

    async def _parts(
        self, session: NodeSession, task: ServerTask, more: UploadParts, transfer: Transfer
    ) -> AsyncGenerator[Data]:
        """The data of an answer as they come, as long as they are needed."""
        while True:
            data = await anext(more, None)
            if isinstance(data, pb.UploadStart):
                raise TransferRefused("malformed", "upload starts twice", retry=False)
            if not session.is_open:
                raise TransferRefused("session-over", "the session is over, enrol again", retry=True)
            if not task.is_open:
                raise _Settled
            if data is None:
                return
            if not 0 < len(data) <= CHUNK_BYTES:
                detail = f"part has {len(data)} bytes, expected 1 to {CHUNK_BYTES}"
                raise TransferRefused("malformed", detail, retry=False)
            transfer.moved(len(data))
            session.node.received(len(data))
            self._untidy_bytes += len(data)
            yield data

    async def _write_as_it_comes(self, task: ServerTask, start: pb.UploadStart, parts: AsyncGenerator[Data]) -> bool:
        """Write an answer part by part; what has come by a break stays."""
        loop = asyncio.get_running_loop()
        async with self._incoming(task, start) as incoming:
            writing: asyncio.Future[None] | None = None
            try:
                async for data in parts:
                    if writing is not None:
                        await writing
                    # The next chunk arrives while this one is written and hashed, but no more than that.
                    writing = loop.run_in_executor(self._disk, incoming.write, data)
                if writing is not None:
                    await writing
                    writing = None
                return await loop.run_in_executor(self._disk, incoming.finish)
            finally:
                if writing is not None:
                    # Its error comes with the next one, or not at all.
                    writing.add_done_callback(_retrieve_error)

    @asynccontextmanager
    async def _incoming(self, task: ServerTask, start: pb.UploadStart) -> AsyncGenerator[Incoming]:
        """The file of an answer; closed whatever happens, even if a thread opens it while the upload is cut off."""
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(self._disk, self._begin, task, start)

        async def let_go() -> None:
            with suppress(TransferRefused, MachineError):
                incoming = await opening
                await loop.run_in_executor(self._disk, incoming.close)

        try:
            yield await asyncio.shield(opening)
        finally:
            await asyncio.shield(let_go())

    def _begin(self, task: ServerTask, start: pb.UploadStart) -> Incoming:
        try:
            return self._inbox.receive(
                task.node,
                start.task_id,
                content=start.content,
                digest=start.sha256,
                size=start.size,
                offset=start.offset,
                durable=task.work.message_type == DURABLE_TYPE,
            )
        except PeerError as error:
            raise TransferRefused("out-of-place", str(error), retry=True) from error


def _retrieve_error(done: asyncio.Future[Any]) -> None:
    """Keep asyncio from printing an error that no one awaits."""
    if not done.cancelled():
        done.exception()
