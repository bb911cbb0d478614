"""Many minimal nodes in one process: python swarm.py ADDRESS COUNT ANSWER_BYTES; ends when the server drains."""

import asyncio
import hashlib
import sys

import grpc.aio

from plait.transport.credentials import CHANNEL_OPTIONS
from plait.transport.protocol import PROTOCOL_VERSION, chunks_of, pack_part
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import FederationStub


async def node(address: str, name: str, answer: bytes, digest: bytes) -> None:
    async with grpc.aio.insecure_channel(address, options=list(CHANNEL_OPTIONS)) as channel:
        stub = FederationStub(channel)
        upload = channel.stream_unary(
            "/plait.v1.Federation/Upload", request_serializer=bytes, response_deserializer=pb.Receipt.FromString
        )
        call = stub.Attend()
        await call.write(pb.FromNode(hello=pb.Hello(protocol=PROTOCOL_VERSION, name=name, nonce=b"n" * 32)))
        await call.read()
        await call.write(pb.FromNode(proof=pb.Proof()))
        token = (await call.read()).welcome.session
        await call.write(pb.FromNode(ready=pb.Ready(device="cpu")))
        while (event := await call.read()) and event.HasField("work"):
            work = event.work
            if work.body_bytes:
                body = hashlib.sha256()
                async for chunk in stub.Download(pb.DownloadRequest(session=token, sha256=work.body_sha256)):
                    body.update(chunk.data)
                assert body.digest() == work.body_sha256
            start = pb.UploadStart(
                session=token, task_id=work.task_id, content=pb.CONTENT_PLAIT, size=len(answer), sha256=digest
            )

            async def parts(start=start):
                yield pb.UploadPart(start=start).SerializeToString()
                for chunk in chunks_of(answer):
                    yield pack_part(chunk)

            receipt = await upload(parts())
            assert receipt.kept
        assert event.drain.finished, event
        call.cancel()


async def swarm(address: str, count: int, answer: bytes) -> None:
    digest = hashlib.sha256(answer).digest()
    await asyncio.gather(*(node(address, f"n{i:04}", answer, digest) for i in range(count)))


if __name__ == "__main__":
    asyncio.run(swarm(sys.argv[1], int(sys.argv[2]), b"a" * int(sys.argv[3])))
