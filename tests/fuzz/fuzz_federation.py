"""A node's messages to the server: those of the long call, one after the other, and the four other requests.

The first byte selects one; in the long call every message begins with two bytes for its length.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from google.protobuf.message import DecodeError
from harness import SCRATCH, instrumented, main

with instrumented():
    import server.attendance
    from plait.errors import PlaitError
    from plait.transport.protocol import pack_part, unpack_part
    from plait.trust.register import Verdict
    from plait.v1 import federation_pb2 as pb
    from server.attendance import Attendance
    from server.guard import Revocation
    from server.hosting import HostedRun, Hosting, Terms
    from server.inbox import Inbox
    from server.monitoring import Metrics
    from server.sessions import Sessions
    from server.tasks import TaskRegistry
    from server.uploads import Limits, Uploads

server.attendance._PAUSE_S = 0.0
KEY, TASK = b"k" * 32, "1.train.0"
METRICS = Metrics()
INBOX = Inbox(SCRATCH, node_quota_bytes=4096)
DISK = ThreadPoolExecutor(1)
LIMITS = Limits(max_answer_bytes=1024, max_unproven=2, handshake_s=5, transfers_at_once=1)


class Everybody:
    """Any name with the one key."""

    def check(self, name, public_key):
        return Verdict.KNOWN if public_key == KEY else Verdict.UNKNOWN_KEY

    def standing(self, name):
        return Verdict.KNOWN

    def holds(self, role, name, public_key):
        return self.check(name, public_key)


class Line:
    """The long call: what was written, in order, then the end."""

    def __init__(self, messages, certified):
        self.messages, self.certified = messages, certified

    def peer(self):
        return "ipv4:192.0.2.1:1"

    def auth_context(self):
        return {"x509_common_name": [self.certified]} if self.certified else {}

    async def read(self):
        return self.messages.pop(0) if self.messages else None

    async def write(self, event):
        event.SerializeToString()


def parse(data: bytes) -> None:
    which, rest = data[:1], data[1:]
    try:
        if which == b"\0":
            asyncio.run(attend(rest))
        elif which == b"\1":
            asyncio.run(upload(rest))
        elif which == b"\2":
            request = pb.HeldRequest.FromString(rest)
            tasks = TaskRegistry(INBOX, Sessions(max_nodes=2))
            Uploads(INBOX, tasks, disk=DISK, limits=LIMITS, metrics=METRICS).held("n", request)
        elif which == b"\3":
            pb.DownloadRequest.FromString(rest)
            pb.StatusRequest.FromString(rest)
    except (DecodeError, PlaitError):
        pass  # gRPC answers the first, the service the second


async def attend(data: bytes) -> None:
    admission = None if data[:1] == b"\0" else Everybody()
    certified = b"ada" if data[:1] == b"\2" else None
    messages = [pb.FromNode.FromString(piece) for piece in pieces(data[1:])]
    terms = Terms(7, {}, b"b" * 32)
    hosting = Hosting(Sessions(max_nodes=2), stays=True)
    tasks = TaskRegistry(INBOX, hosting.sessions)
    uploads = Uploads(INBOX, tasks, disk=DISK, limits=LIMITS, metrics=METRICS)
    tasks.give("ada", message_type="train", group="1", head=b"h", body=b"")
    hosting.host(HostedRun(terms, tasks=tasks, uploads=uploads, max_answer_bytes=1024))
    revocation = Revocation(admission, hosting=hosting, metrics=METRICS)
    await Attendance(hosting, revocation, METRICS, LIMITS).serve(Line(messages, certified))


async def upload(data: bytes) -> None:
    tasks = TaskRegistry(INBOX, Sessions(max_nodes=2))
    session = tasks.sessions.attach("n", KEY, arrival=0)
    tasks.give("n", message_type="train", group="1", head=b"h", body=b"")
    uploads = Uploads(INBOX, tasks, disk=DISK, limits=LIMITS, metrics=METRICS)
    parts = [unpack_part(piece) for piece in pieces(data)]
    if parts and isinstance(parts[0], pb.UploadStart):

        async def rest():
            for part in parts[1:]:
                yield part

        receipt = await uploads.take(session, parts[0], rest())
        if receipt.kept and parts[0].task_id != TASK:
            raise ValueError("an answer to another task was kept")


def pieces(data: bytes) -> list[bytes]:
    found = []
    while data and len(found) < 16:
        size = int.from_bytes(data[:2], "little")
        found.append(data[2 : 2 + size])
        data = data[2 + size :]
    return found


def together(*messages) -> bytes:
    raw = [each if isinstance(each, bytes) else each.SerializeToString() for each in messages]
    return b"".join(len(each).to_bytes(2, "little") + each for each in raw)


def seeds() -> list[bytes]:
    import hashlib

    hello = pb.FromNode(hello=pb.Hello(protocol=1, name="ada", public_key=KEY, nonce=b"n" * 32))
    anonymous = pb.FromNode(hello=pb.Hello(protocol=1, name="ada", nonce=b"n" * 32))
    proof = pb.FromNode(proof=pb.Proof(signature=bytes(64)))
    ready = pb.FromNode(ready=pb.Ready(base_fingerprint=b"b" * 32, methods=["lora"], memory_bytes=1, device="cpu"))
    progress = pb.FromNode(progress=pb.Progress(task_id=TASK, doing="training"))
    answer = pb.FromNode(answer=pb.Answer(task_id=TASK, content=pb.CONTENT_PLAIT, data=b"answer"))
    calls = together(anonymous, pb.FromNode(proof=pb.Proof()), ready, progress, answer)
    start = pb.UploadStart(
        session=b"s" * 32, task_id=TASK, content=pb.CONTENT_PLAIT, size=6, sha256=hashlib.sha256(b"answer").digest()
    )
    held = pb.HeldRequest(session=b"s" * 32, task_id=TASK, sha256=bytes(32))
    return [
        b"\0\0" + calls,
        b"\0\1" + together(hello, proof, ready),
        b"\0\2" + together(hello, proof),
        b"\1" + together(pb.UploadPart(start=start), pack_part(b"ans"), pack_part(b"wer")),
        b"\2" + held.SerializeToString(),
        b"\3" + pb.DownloadRequest(session=b"s" * 32, sha256=bytes(32), offset=7).SerializeToString(),
    ]


if __name__ == "__main__":
    main(parse, seeds())
