"""The gRPC service for the operators of a standing server: translates between calls and the desk that decides.

What a run is, the desk knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from plait.errors import ConfigError, PlaitError, PolicyError
from plait.transport.protocol import CHUNK_BYTES
from plait.trust.roles import STAFF, Role
from plait.v1 import federation_pb2 as pb
from server.calls import MoreCalls
from server.guard import Context, certificate_of
from server.log import say

if TYPE_CHECKING:
    from plait.features.standing.standing import Standing

NOBODY = "anonymous"
"""Who acts on an insecure server, which only its own machine reaches."""

_SERVICE = pb.DESCRIPTOR.services_by_name["Operations"].full_name
_MOST_DETAIL = 1000
Result = TypeVar("Result")


def calls_of(desk: Standing) -> MoreCalls:
    """The calls of operators and observers, which a desk decides."""
    return MoreCalls(
        _SERVICE,
        handlers=lambda disk: Operations(desk, disk).handlers,
        roles={"Submit": (Role.OPERATOR,), "Cancel": (Role.OPERATOR,), "Runs": STAFF, "Fetch": STAFF},
    )


@dataclass(eq=False)
class Operations:
    """Serves operators and observers.

    Attributes:
        disk: threads for what reads or writes files.
    """

    desk: Standing
    disk: Executor

    @property
    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler[Any, Any]]:
        """The calls by name, as gRPC takes them."""
        unary = grpc.unary_unary_rpc_method_handler
        return {
            "Submit": unary(self.submit, pb.SubmitRequest.FromString, pb.SubmitReply.SerializeToString),
            "Cancel": unary(self.cancel, pb.CancelRequest.FromString, pb.CancelReply.SerializeToString),
            "Runs": unary(self.runs, pb.RunsRequest.FromString, pb.RunsReply.SerializeToString),
            "Fetch": grpc.unary_stream_rpc_method_handler(
                self.fetch, pb.FetchRequest.FromString, pb.FilePart.SerializeToString
            ),
        }

    async def submit(self, request: pb.SubmitRequest, context: Context) -> pb.SubmitReply:
        """Put a run into the queue."""
        by, desk = _caller(context), self.desk
        run = await self._ask(
            lambda: desk.submit(
                by,
                request.config_json,
                priority=request.priority,
                cohort_labels=tuple(request.cohort_labels),
                name=request.name,
            ),
            context,
        )
        return pb.SubmitReply(run=run)

    async def cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelReply:
        """Take a run out of the queue, or end it."""
        by = _caller(context)
        return pb.CancelReply(was=await self._ask(lambda: self.desk.cancel(by, request.run), context))

    async def runs(self, request: pb.RunsRequest, context: Context) -> pb.RunsReply:
        """Tell a page of the queue and the past runs."""
        page = await self._ask(lambda: self.desk.page_json(run=request.run, before=request.before), context)
        return pb.RunsReply(json=page)

    async def fetch(self, request: pb.FetchRequest, context: Context) -> None:
        """Send the files of a finished run."""
        for place, path in await self._ask(lambda: self.desk.files(request.run), context):
            try:
                size = path.stat().st_size
                await context.write(pb.FilePart(start=pb.FileStart(path=place, size=size)))
                async for data in self._chunks(path, size):
                    await context.write(pb.FilePart(data=data))
            except OSError as error:
                await context.abort(grpc.StatusCode.INTERNAL, f"server cannot read '{place}': {error.strerror}")

    async def _chunks(self, path: Path, size: int) -> AsyncIterator[bytes]:
        """A file, read beside the event loop, which serves a run meanwhile."""
        read = asyncio.get_running_loop().run_in_executor
        with path.open("rb") as file:
            while size > 0 and (data := await read(self.disk, file.read, min(size, CHUNK_BYTES))):
                size -= len(data)
                yield data

    async def _ask(self, question: Callable[[], Result], context: Context) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self.disk, question)
        except PlaitError as error:
            say("operator-refused", operator=_caller(context), detail=error)
            ours = isinstance(error, ConfigError | PolicyError)
            code = grpc.StatusCode.INVALID_ARGUMENT if ours else grpc.StatusCode.FAILED_PRECONDITION
            await context.abort(code, str(error)[:_MOST_DETAIL])


def _caller(context: Context) -> str:
    shown = certificate_of(context)
    return NOBODY if shown is None else shown.name
