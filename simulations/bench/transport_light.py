"""Many light nodes in one process, each on its own connection: of plait's protocol, and of a bare gRPC stream.

    python -m simulations.bench.transport_light plait|raw SERVER COUNT

They answer every task with the task's own bytes, and end when the server lets them go.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from typing import Self, TypeVar

import grpc
import grpc.aio

from plait.errors import PeerError
from plait.transport.credentials import CHANNEL_OPTIONS, SERVER_OPTIONS, channel_credentials
from plait.transport.protocol import (
    HEAD_BYTES,
    NONCE_BYTES,
    PROTOCOL_VERSION,
    chunks_of,
    enrolment_bytes,
    pack_part,
    unpack_chunk,
)
from plait.trust.kit import ClientKit
from plait.v1 import federation_pb2 as pb

_SERVICE, _METHOD = "bench.LightRaw", "Talk"
_AT_THE_DOOR = 64
_PLAIT = f"/{pb.DESCRIPTOR.services_by_name['Federation'].full_name}"

Answered = TypeVar("Answered")
Answer = Callable[[bytes], bytes]
"""The bytes of a task, the bytes of its answer."""


class LightNode:
    """A node of plait's protocol: enrols, does its tasks one after the other, is released.

    Args:
        server: host and port.
        name: its name.
        answer: does a task; called in a thread if the task is large.
        desk: bounds how many nodes have a task and its answer in memory at a time.
        kit: its keys; without one the connection is insecure.
    """

    def __init__(
        self, server: str, name: str, answer: Answer, desk: asyncio.Semaphore, *, kit: ClientKit | None = None
    ) -> None:
        self._server = server
        self._name = name
        self._answer = answer
        self._desk = desk
        self._kit = kit

    async def run(self, door: asyncio.Semaphore) -> bool:
        """Work until the server lets it go.

        Args:
            door: bounds how many enrol at a time.

        Returns:
            Whether the run is over; otherwise the server goes on later.

        Raises:
            PeerError: the server violated the protocol.
            grpc.RpcError: a call failed.
        """
        async with self._channel() as channel:
            attend = channel.stream_stream(
                f"{_PLAIT}/Attend",
                request_serializer=pb.FromNode.SerializeToString,
                response_deserializer=pb.ToNode.FromString,
            )
            async with door:
                call = attend()
                key = b"" if self._kit is None else self._kit.node_key.public_bytes
                nonce = secrets.token_bytes(NONCE_BYTES)
                hello = pb.Hello(protocol=PROTOCOL_VERSION, name=self._name, public_key=key, nonce=nonce)
                await call.write(pb.FromNode(hello=hello))
                challenge = (await self._hear(call, "challenge")).challenge
                await call.write(pb.FromNode(proof=self._proof(challenge, hello)))
                welcome = (await self._hear(call, "welcome")).welcome
            await call.write(pb.FromNode(ready=pb.Ready(base_fingerprint=welcome.base_fingerprint, device="none")))
            while not (event := await self._hear(call, "work", "drain", "receipt")).HasField("drain"):
                if event.HasField("work"):
                    async with self._desk:
                        await self._work(channel, call, welcome.session, event.work)
                else:
                    self._check(event.receipt, event.receipt.task_id)
            call.cancel()
            return event.drain.finished

    def _channel(self) -> grpc.aio.Channel:
        options = list(CHANNEL_OPTIONS)
        if self._kit is None:
            return grpc.aio.insecure_channel(self._server, options=options)
        return grpc.aio.secure_channel(self._server, channel_credentials(self._kit), options=options)

    def _proof(self, challenge: pb.Challenge, hello: pb.Hello) -> pb.Proof:
        if self._kit is None:
            return pb.Proof()
        signed = enrolment_bytes(
            challenge_nonce=challenge.nonce, hello_nonce=hello.nonce, public_key=hello.public_key, name=hello.name
        )
        return pb.Proof(signature=self._kit.node_key.sign(signed))

    async def _hear(self, call: grpc.aio.StreamStreamCall[pb.FromNode, pb.ToNode], *kinds: str) -> pb.ToNode:
        event = await call.read()
        if not isinstance(event, pb.ToNode) or event.WhichOneof("event") not in kinds:
            raise PeerError(f"server said {event} to '{self._name}', expected {' or '.join(kinds)}")
        return event

    @staticmethod
    def _check(receipt: pb.Receipt, task_id: str) -> None:
        if not receipt.kept:
            raise PeerError(f"answer to task '{task_id}' was not kept")

    async def _work(
        self,
        channel: grpc.aio.Channel,
        call: grpc.aio.StreamStreamCall[pb.FromNode, pb.ToNode],
        session: bytes,
        work: pb.Work,
    ) -> None:
        body = bytearray()
        if work.body_bytes:
            download = channel.unary_stream(
                f"{_PLAIT}/Download",
                request_serializer=pb.DownloadRequest.SerializeToString,
                response_deserializer=unpack_chunk,
            )
            async for chunk in download(pb.DownloadRequest(session=session, sha256=work.body_sha256)):
                body += chunk
            if hashlib.sha256(body).digest() != work.body_sha256:
                raise PeerError(f"body of task '{work.task_id}' has another digest")
        task = work.head + body
        answer = self._answer(task) if len(task) <= HEAD_BYTES else await asyncio.to_thread(self._answer, task)
        if len(answer) <= HEAD_BYTES:
            await call.write(pb.FromNode(answer=pb.Answer(task_id=work.task_id, content=pb.CONTENT_PLAIT, data=answer)))
            return
        start = pb.UploadStart(
            session=session,
            task_id=work.task_id,
            content=pb.CONTENT_PLAIT,
            size=len(answer),
            sha256=hashlib.sha256(answer).digest(),
        )

        async def parts() -> AsyncIterator[bytes]:
            yield pb.UploadPart(start=start).SerializeToString()
            for chunk in chunks_of(answer):
                yield pack_part(chunk)

        upload = channel.stream_unary(
            f"{_PLAIT}/Upload", request_serializer=bytes, response_deserializer=pb.Receipt.FromString
        )
        self._check(await upload(parts()), work.task_id)


async def run_nodes(server: str, count: int, answer: Callable[[str], Answer], *, at_work: int | None = None) -> None:
    """Run light nodes of plait until the run is over.

    Args:
        server: host and port.
        count: how many.
        answer: given a node's name, returns the function that does its tasks.
        at_work: how many have a task and its answer in memory at a time, the others wait; None for all.
    """
    door = asyncio.Semaphore(_AT_THE_DOOR)
    desk = asyncio.Semaphore(at_work or count)
    names = [f"light-{number:05}" for number in range(count)]
    await asyncio.gather(*(LightNode(server, name, answer(name), desk).run(door) for name in names))


async def run_raw_nodes(server: str, count: int) -> None:
    """Run nodes of `LightRawServer` until it releases them."""
    door = asyncio.Semaphore(_AT_THE_DOOR)

    async def node() -> None:
        async with grpc.aio.insecure_channel(server, options=list(CHANNEL_OPTIONS)) as channel:
            async with door:
                call = channel.stream_stream(f"/{_SERVICE}/{_METHOD}")()
                await call.write(b"here")
                await call.read()
            while isinstance(task := await call.read(), bytes):
                await call.write(task)

    await asyncio.gather(*(node() for _ in range(count)))


class LightRawServer:
    """A bare gRPC server for light nodes while it is entered, with its own event loop and thread.

    Args:
        nodes: number of nodes; `round` sends to all of them.
    """

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._lines: list[asyncio.Queue[bytes | None]] = []
        self._all_here = threading.Event()
        self._missing = 0
        self._done: Future[None] = Future()
        self.address = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait_for_nodes(self, timeout_s: float) -> bool:
        """Whether all nodes connected in time."""
        return self._all_here.wait(timeout_s)

    def round(self, task: bytes) -> None:
        """Send all nodes a task and wait until each has returned it."""
        self._done = Future()
        self._loop.call_soon_threadsafe(self._send, task)
        self._done.result()

    def _send(self, task: bytes) -> None:
        self._missing = len(self._lines)
        for line in self._lines:
            line.put_nowait(task)

    def _do(self, work: Coroutine[object, object, Answered]) -> Answered:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> None:
        self._server = grpc.aio.server(options=list(SERVER_OPTIONS))
        handler = grpc.stream_stream_rpc_method_handler(self._talk)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def _stop(self) -> None:
        for line in self._lines:
            line.put_nowait(None)
        await self._server.stop(2)
        # On a busy machine calls end after that; a loop that stops under them complains.
        if calls := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(calls, timeout=10)

    async def _talk(self, said: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        del said
        await context.write(await context.read())
        line: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._lines.append(line)
        if len(self._lines) == self._nodes:
            self._all_here.set()
        while (task := await line.get()) is not None:
            await context.write(task)
            await context.read()
            self._missing -= 1
            if not self._missing:
                self._done.set_result(None)


def main(kind: str, server: str, count: str) -> None:
    """Entry point; all arguments as typed."""
    if kind == "raw":
        asyncio.run(run_raw_nodes(server, int(count)))
    else:
        asyncio.run(run_nodes(server, int(count), lambda _: bytes))


if __name__ == "__main__":
    main(*sys.argv[1:])
