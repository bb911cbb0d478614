"""Incoming answers: checked before anything is buffered, written as they arrive, one receipt at the end.

A node whose upload is cut off resumes it later. Knows nothing of permissions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from typing import Any

from plait.errors import MachineError, PeerError
from plait.machine import give_back_memory
from plait.transport.framing import Data
from plait.transport.protocol import CHUNK_BYTES, DIGEST_BYTES
from plait.v1 import federation_pb2 as pb
from server.inbox import Inbox
from server.incoming import Incoming
from server.limits import Limits
from server.sessions import Session
from server.tasks import DURABLE_TYPE, Task, TaskRegistry, TaskState
from server.transfers import CutOff, Transfer, Transfers

_MAX_ERROR_BYTES = 4096
_MAX_MISMATCHES = 3
_TIDY_BYTES = 256 << 20
_TIDY_ANSWERS = 500
_SMALL_BYTES = 65536


class UploadRefused(PeerError):  # noqa: N818 (it names what happened)
    """An upload that is refused or cut off.

    Attributes:
        retry: whether the node may try the same again.
    """

    def __init__(self, reason: str, detail: str, *, retry: bool) -> None:
        super().__init__(detail)
        self.reason = reason
        self.retry = retry


class _Settled(Exception):  # noqa: N818 (it names what happened)
    """The answer is no longer needed."""


class Uploads:
    """Receives the answers of all nodes.

    Args:
        tasks: the tasks that they may answer.
        disk: threads that write files, so that the event loop never waits for a disk.
        limits: bounds on what nodes may use.
    """

    def __init__(self, inbox: Inbox, tasks: TaskRegistry, *, disk: Executor, limits: Limits) -> None:
        self._inbox = inbox
        self._tasks = tasks
        self._disk = disk
        self._max_answer_bytes = limits.max_answer_bytes
        self._transfers = Transfers(at_once=limits.transfers_at_once, pace=limits.pace)
        self._untidy_bytes = self._untidy_answers = 0

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

    async def take(
        self, session: Session, start: pb.UploadStart, read: Callable[[], Awaitable[Data | None]]
    ) -> tuple[bool, bool]:
        """Receive one answer.

        Args:
            read: gives the next data; None at the end.

        Returns:
            Whether it counts, and whether it is new.

        Raises:
            UploadRefused: it breaks the rules.
            MachineError: cannot be written, or another server has taken over.
        """
        node = session.node.name
        state, task = self._tasks.find(node, start.task_id)
        if state is None:
            raise UploadRefused("unknown-task", "this task has not been assigned, or not again yet", retry=True)
        if task is None or not task.is_open:
            return state is TaskState.ANSWERED, False
        self._check(start, task)
        self._untidy_answers += 1
        try:
            async with self._transfers.turn(node) as transfer:
                return await self._receive(session, start, task, read, transfer)
        except CutOff as cut:
            raise UploadRefused(cut.reason, str(cut), retry=True) from cut

    def _check(self, start: pb.UploadStart, task: Task) -> None:
        limit = _MAX_ERROR_BYTES if start.content == pb.CONTENT_ERROR else self._max_answer_bytes
        if start.size > limit:
            # No retry can be smaller, so the round need not wait for one.
            detail = f"answer has {start.size} bytes, expected at most {limit}"
            self._tasks.fail(task, f"node {task.node}: {detail}")
            raise UploadRefused("too-large", detail, retry=False)
        if len(start.sha256) != DIGEST_BYTES:
            raise UploadRefused("malformed", f"SHA-256 has {len(start.sha256)} bytes, expected 32", retry=False)
        if start.content not in (pb.CONTENT_PLAIT, pb.CONTENT_ERROR):
            detail = f"content is {int(start.content)}, expected 1, or 2 for an error"
            self._tasks.fail(task, f"node {task.node}: {detail}")
            raise UploadRefused("malformed", detail, retry=False)

    async def _receive(
        self,
        session: Session,
        start: pb.UploadStart,
        task: Task,
        read: Callable[[], Awaitable[Data | None]],
        transfer: Transfer,
    ) -> tuple[bool, bool]:
        parts = self._parts(session, task, read, transfer)
        is_small = start.size <= _SMALL_BYTES and not start.offset
        try:
            whole = await (self._write_at_once if is_small else self._write_as_it_comes)(task, start, parts)
        except _Settled:
            return task.state is TaskState.ANSWERED, False
        except PeerError as error:
            if isinstance(error, UploadRefused):
                raise
            raise UploadRefused("lying-size", str(error), retry=True) from error
        except MachineError:
            if task.is_open:
                raise
            # Withdrawn, and its file removed, at this very moment.
            return False, False
        if not whole:
            task.mismatches += 1
            detail = "answer's SHA-256 is not what was announced, expected the same bytes"
            if task.mismatches >= _MAX_MISMATCHES:
                self._tasks.fail(task, f"node {task.node}: {detail}")
            raise UploadRefused("wrong-digest", detail, retry=task.is_open)
        return self._tasks.answer(task, session), True

    async def _parts(
        self, session: Session, task: Task, read: Callable[[], Awaitable[Data | None]], transfer: Transfer
    ) -> AsyncGenerator[Data]:
        """The data of an answer as they come, as long as they are needed."""
        while True:
            data = await read()
            if not session.is_open:
                raise UploadRefused("session-over", "the session is over, enrol again", retry=True)
            if not task.is_open:
                raise _Settled
            if data is None:
                return
            if not 0 < len(data) <= CHUNK_BYTES:
                raise UploadRefused(
                    "malformed", f"part has {len(data)} bytes, expected 1 to {CHUNK_BYTES}", retry=False
                )
            transfer.moved(len(data))
            session.node.received(len(data))
            self._untidy_bytes += len(data)
            yield data

    async def _write_as_it_comes(self, task: Task, start: pb.UploadStart, parts: AsyncGenerator[Data]) -> bool:
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
                    # Its error is told by the next line that fails, or not at all.
                    writing.add_done_callback(_retrieve_error)

    async def _write_at_once(self, task: Task, start: pb.UploadStart, parts: AsyncGenerator[Data]) -> bool:
        """Write a small answer once it is here: a thread is asked once instead of for every step."""
        gathered: list[Data] = []
        left = start.size
        async for data in parts:
            gathered.append(data)
            left -= len(data)
            if left < 0:
                raise PeerError(f"answer has more than the {start.size} bytes that were announced")

        def store() -> bool:
            incoming = self._begin(task, start)
            try:
                for data in gathered:
                    incoming.write(data)
                return incoming.finish()
            finally:
                incoming.close()

        storing = asyncio.get_running_loop().run_in_executor(self._disk, store)
        storing.add_done_callback(_retrieve_error)  # the error of an upload that is cut off is not needed
        try:
            return await asyncio.shield(storing)
        finally:
            if not storing.done():
                # Cut off: the next upload of this node must not find its file open.
                await asyncio.shield(asyncio.wait((storing,)))

    @asynccontextmanager
    async def _incoming(self, task: Task, start: pb.UploadStart) -> AsyncGenerator[Incoming]:
        """The file of an answer; closed whatever happens, even if a thread opens it while the upload is cut off."""
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(self._disk, self._begin, task, start)

        async def let_go() -> None:
            with suppress(UploadRefused, MachineError):
                incoming = await opening
                await loop.run_in_executor(self._disk, incoming.close)

        try:
            yield await asyncio.shield(opening)
        finally:
            await asyncio.shield(let_go())

    def _begin(self, task: Task, start: pb.UploadStart) -> Incoming:
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
            raise UploadRefused("out-of-place", str(error), retry=True) from error


def _retrieve_error(done: asyncio.Future[Any]) -> None:
    """Keep asyncio from printing an error that no one awaits."""
    if not done.cancelled():
        done.exception()


async def data_of(parts: AsyncIterator[Data | pb.UploadStart]) -> Data | None:
    """The next data of an upload; None at its end.

    Raises:
        UploadRefused: a second start.
    """
    part = await anext(parts, None)
    if isinstance(part, pb.UploadStart):
        raise UploadRefused("malformed", "upload starts twice, expected data after the first start", retry=False)
    return part
