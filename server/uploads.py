"""Answers on their way in: checked before anything is buffered, written as they come, one receipt at the end.

A node that stalls is cut off and goes on later from where it was; a newer upload of the same answer takes the place of
the older. Knows nothing of who may call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from plait.errors import MachineError, PeerError
from plait.machine import give_back_memory
from plait.transport.framing import Data
from plait.transport.protocol import CHUNK_BYTES, DIGEST_BYTES
from plait.v1 import federation_pb2 as pb
from server.assignments import DURABLE_TYPE, Assignment, Assignments, Standing
from server.inbox import Inbox, Incoming
from server.sessions import Session

_MAX_ERROR_BYTES = 4096
_MAX_MISMATCHES = 3
_TIDY_BYTES = 256 << 20


class UploadRefused(PeerError):  # noqa: N818 (it names what happened)
    """An upload that is cut off.

    Attributes:
        reason: one word for the metrics.
        retry: whether the node may try the same again.
    """

    def __init__(self, reason: str, detail: str, *, retry: bool) -> None:
        super().__init__(detail)
        self.reason = reason
        self.retry = retry


@dataclass(eq=False)
class _Running:
    """An upload in progress."""

    clock: asyncio.Timeout
    over: asyncio.Event
    superseded: bool = False

    def extend(self, seconds: float) -> None:
        """Let the next chunk take so long."""
        if not self.superseded:
            self.clock.reschedule(asyncio.get_running_loop().time() + seconds)

    async def supersede(self) -> None:
        """Cut it off and wait until it has let go of its file."""
        self.superseded = True
        with suppress(RuntimeError):  # it is ending already
            self.clock.reschedule(asyncio.get_running_loop().time())
        await self.over.wait()


class Uploads:
    """Takes the answers of all nodes.

    Args:
        inbox: where they go.
        assignments: what they may answer.
        disk: where files are written, so that the event loop never waits for a disk.
        max_answer_bytes: the largest one.
        at_once: so many come in at a time, the others wait; each takes up to three chunks of memory.
        stall_s: an upload that brings no chunk for so long is cut off.
    """

    def __init__(
        self,
        inbox: Inbox,
        assignments: Assignments,
        *,
        disk: Executor,
        max_answer_bytes: int,
        at_once: int,
        stall_s: float,
    ) -> None:
        self._inbox = inbox
        self._assignments = assignments
        self._disk = disk
        self._max_answer_bytes = max_answer_bytes
        self._slots = asyncio.Semaphore(at_once)
        self._stall_s = stall_s
        self._running: dict[tuple[str, str], _Running] = {}
        self._untidy_bytes = 0

    def held(self, node: str, request: pb.HeldRequest) -> pb.HeldReply:
        """What there is of an answer."""
        standing, _ = self._assignments.find(node, request.task_id)
        match standing:
            case Standing.LATE:
                return pb.HeldReply(late=True)
            case Standing.UNKNOWN:
                return pb.HeldReply(unknown=True)
            case Standing.ANSWERED:
                return pb.HeldReply(complete=True)
            case Standing.OPEN:
                return pb.HeldReply(offset=self._inbox.held_bytes(node, request.task_id, request.sha256))

    def tidy(self) -> None:
        """Hand back what memory many answers took, once the last of them is here; to be called now and then."""
        if self._untidy_bytes >= _TIDY_BYTES and not self._running:
            self._untidy_bytes = 0
            self._disk.submit(give_back_memory)

    async def take(
        self, session: Session, start: pb.UploadStart, read: Callable[[], Awaitable[Data | None]]
    ) -> tuple[bool, bool]:
        """Take one answer.

        Args:
            session: whose it is.
            start: what was announced.
            read: gives the next data; None at the end.

        Returns:
            Whether it counts, and whether it is new.

        Raises:
            UploadRefused: it breaks the rules.
            MachineError: cannot be written.
        """
        node = session.node.name
        standing, assignment = self._assignments.find(node, start.task_id)
        if standing is Standing.LATE:
            return False, False
        if standing is Standing.ANSWERED:
            return True, False
        if assignment is None:
            raise UploadRefused("unknown-task", "this task has not been given out, or not again yet", retry=True)
        self._check(start, assignment)
        key = (node, start.task_id)
        while (older := self._running.get(key)) is not None:
            await older.supersede()
        clock = asyncio.timeout(None)
        running = self._running[key] = _Running(clock, asyncio.Event())
        try:
            async with clock:
                return await self._receive(session, start, assignment, read, running)
        except TimeoutError as error:
            if running.superseded:
                raise UploadRefused("superseded", "the same answer is coming in again", retry=True) from error
            raise UploadRefused("stalled", f"no data for {self._stall_s:g} s, go on later", retry=True) from error
        finally:
            del self._running[key]
            running.over.set()

    def _check(self, start: pb.UploadStart, assignment: Assignment) -> None:
        limit = _MAX_ERROR_BYTES if start.content == pb.CONTENT_ERROR else self._max_answer_bytes
        if start.size > limit:
            # No other try can be smaller, so the round need not wait for one.
            detail = f"answer has {start.size} bytes, expected at most {limit}"
            self._assignments.fail(assignment, f"node {assignment.node}: {detail}")
            raise UploadRefused("too-large", detail, retry=False)
        if len(start.sha256) != DIGEST_BYTES:
            raise UploadRefused("malformed", f"SHA-256 has {len(start.sha256)} bytes, expected 32", retry=False)
        if start.content not in (pb.CONTENT_PLAIT, pb.CONTENT_RECORDS, pb.CONTENT_ERROR):
            raise UploadRefused("malformed", f"content is {int(start.content)}, expected 1, 2 or 3", retry=False)

    async def _receive(
        self,
        session: Session,
        start: pb.UploadStart,
        assignment: Assignment,
        read: Callable[[], Awaitable[Data | None]],
        running: _Running,
    ) -> tuple[bool, bool]:
        loop = asyncio.get_running_loop()
        async with self._slots:
            incoming = await loop.run_in_executor(self._disk, self._begin, assignment, start)
            writing: asyncio.Future[None] | None = None
            running.extend(self._stall_s)
            try:
                while True:
                    data = await read()
                    if writing is not None:
                        await writing
                        writing = None
                    running.extend(self._stall_s)
                    if not session.is_open:
                        raise UploadRefused("session-over", "the session is over, enrol again", retry=True)
                    if not assignment.is_open:
                        return assignment.answered is not None, False
                    if data is None:
                        break
                    if not 0 < len(data) <= CHUNK_BYTES:
                        raise UploadRefused(
                            "malformed", f"part has {len(data)} bytes, expected 1 to {CHUNK_BYTES}", retry=False
                        )
                    session.node.uplink_bytes += len(data)
                    self._untidy_bytes += len(data)
                    # The next chunk travels while this one is written and hashed, but no more than that.
                    writing = loop.run_in_executor(self._disk, incoming.write, data)
                whole = await loop.run_in_executor(self._disk, incoming.finish)
            except PeerError as error:
                if isinstance(error, UploadRefused):
                    raise
                raise UploadRefused("lying-size", str(error), retry=True) from error
            except MachineError:
                if assignment.is_open:
                    raise
                # Withdrawn, and its file removed, in this very moment.
                return False, False
            finally:
                if writing is not None:
                    # A file must not be closed under a thread that writes to it.
                    await asyncio.wait([writing])
                await loop.run_in_executor(self._disk, incoming.close)
        if not whole:
            assignment.mismatches += 1
            detail = "answer's SHA-256 is not what was announced, expected the same bytes"
            if assignment.mismatches >= _MAX_MISMATCHES:
                self._assignments.fail(assignment, f"node {assignment.node}: {detail}")
            raise UploadRefused("wrong-digest", detail, retry=assignment.is_open)
        return self._assignments.answer(assignment), True

    def _begin(self, assignment: Assignment, start: pb.UploadStart) -> Incoming:
        try:
            return self._inbox.receive(
                assignment.node,
                start.task_id,
                content=start.content,
                digest=start.sha256,
                size=start.size,
                offset=start.offset,
                durable=assignment.work.message_type == DURABLE_TYPE,
            )
        except PeerError as error:
            raise UploadRefused("out-of-place", str(error), retry=True) from error


async def data_of(parts: AsyncIterator[Data | pb.UploadStart]) -> Data | None:
    """The next data of an upload; None at its end.

    Raises:
        UploadRefused: a second start.
    """
    part = await anext(parts, None)
    if isinstance(part, pb.UploadStart):
        raise UploadRefused("malformed", "part is another start, expected data after the first", retry=False)
    return part
