"""Record a whole run over gRPC, both sides byte for byte: a server of plait, and a node of the minimal level.

    python tests/vectors/write_run.py

The server is plait's own with its random bytes drawn from a counter. The node trains nothing: it adds 2^-10 to every
number that trains, for each step, and says what it was given to say. So every recording has the same bytes.
"""

import json
import queue
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import grpc
import numpy as np

from plait.adapters import AdapterState, Layout
from plait.adapters.fingerprint import fingerprint_base
from plait.training.bases import unpack_tiny
from plait.transport.protocol import enrolment_bytes
from plait.trust.keys import NodeKey
from plait.v1 import federation_pb2 as pb
from plait.wire.codecs import codec_for
from plait.wire.encoding import encode_delta
from plait.wire.envelope import Direction, Header, open_envelope, seal, with_signature
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    Evaluation,
    Refusal,
    RefusalReason,
    TrainTask,
    UpdateReply,
    decode_task,
    encode_reply,
    unpacked_layout,
)
from plait.wire.settings import digest_of

FILE = Path(__file__).parent / "whole" / "minimal.json"
NAME, KEY, NONCE = "ålice-7", sha256(b"a node's key").digest(), sha256(b"a node's nonce").digest()
COUNTS = {"train_examples": 16, "train_tokens": 512, "held_out_examples": 2, "held_out_tokens": 8}
OPTIONS = (
    "--insecure", "--base", "tiny", "--min-clients", "1", "--rounds", "2", "--seed", "7", "--threads", "1",
    "--rank", "1", "--target-modules", "q_proj", "--local-steps", "4", "--batch-size", "1", "--seq-len", "16",
    "--bits", "fp32",
)  # fmt: skip
SERVER = """
import hashlib, itertools, secrets, sys
counts = {}
def drawn(size=32):
    by = sys._getframe(1).f_code.co_name
    number = next(counts.setdefault(by, itertools.count()))
    return hashlib.shake_256(f"{by} {number}".encode()).digest(size)
secrets.token_bytes, secrets.randbits = drawn, lambda bits: 2**bits - 5
from plait.cli.main import main
main()
"""


class Device:
    """The node: its answers to tasks."""

    def __init__(self, base: bytes) -> None:
        self._base, self._key = base, NodeKey.from_seed(KEY)
        self._texts: dict[bytes, str] = {}
        self._spec, self._layout, self._adapter = "", Layout.of({}), AdapterState.zeros(Layout.of({}))
        self._first = 0.0

    def prove(self, challenge: bytes) -> bytes:
        signed = enrolment_bytes(
            challenge_nonce=challenge, hello_nonce=NONCE, public_key=self._key.public_bytes, name=NAME
        )
        return self._key.sign(signed)

    @property
    def public_key(self) -> bytes:
        return self._key.public_bytes

    def answer(self, data: bytes) -> bytes:
        task = decode_task(data, max_bytes=len(data), held=lambda digest: self._texts[digest])
        self._texts[digest_of(task.settings.text)] = task.settings.text
        if isinstance(task, DescribeTask):
            self._spec, self._layout = task.spec_json, unpacked_layout(task.layout)
            return encode_reply(ClientCard(NAME, self._base, self._spec_digest, **COUNTS, histogram={}))
        opened = open_envelope(task.broadcast, layout=self._layout)
        held, header = self._adapter.digest() if self._adapter.layout.size else b"", opened.header
        if held != header.result_digest and header.relative_to not in (b"", held):
            return encode_reply(Refusal(NAME, RefusalReason.NEED_FULL, "the adapter is not held here"))
        if held != header.result_digest:
            before = self._adapter.flat if header.relative_to else np.float32(0)
            self._adapter = AdapterState(self._layout, before + opened.delta.flat)
        if isinstance(task, TrainTask):
            return encode_reply(UpdateReply(self._update(task, header)))
        sums = np.array([2.0, 4.0]) / 2**task.settings.round
        loss = float(sums.sum()) / COUNTS["held_out_tokens"]
        self._first = self._first or loss
        examples, tokens = len(sums), COUNTS["held_out_tokens"]
        return encode_reply(
            Evaluation(NAME, task.settings.round, loss, tokens, None, examples, change=loss - self._first)
        )

    @property
    def _spec_digest(self) -> bytes:
        return sha256(self._spec.encode() + self._layout.digest).digest()

    def _update(self, task: TrainTask, broadcast: Header) -> bytes:
        steps = task.settings.steps or task.settings.local_steps
        trained = self._adapter.flat + np.float32(steps / 1024)
        delta = trained - self._adapter.flat
        for slot in self._layout.slots:
            if task.settings.trained != "AB" and f"lora_{task.settings.trained}" not in slot.name:
                delta[slot.offset : slot.offset + slot.size] = 0
        header = Header(
            direction=Direction.UPDATE, run_id=broadcast.run_id, round=task.settings.round, client=NAME,
            base_fingerprint=self._base, spec_digest=self._spec_digest, relative_to=broadcast.result_digest,
            examples=COUNTS["train_examples"], metrics={},
        )  # fmt: skip
        sealed = seal(header, encode_delta(AdapterState(self._layout, delta), codec_for("fp32")))
        return with_signature(sealed.data, self._key.sign)


class Recording:
    """The calls of one node, in the order it hears and says."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.calls: list[dict[str, object]] = []
        self._said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._of = {
            "Download": channel.unary_stream("/plait.v1.Federation/Download"),
            "Held": channel.unary_unary("/plait.v1.Federation/Held"),
            "Upload": channel.stream_unary("/plait.v1.Federation/Upload"),
        }
        self._heard = channel.stream_stream("/plait.v1.Federation/Attend")(iter(self._said.get, None))

    def say(self, message: pb.FromNode) -> None:
        self._note("Attend", node=[message.SerializeToString()])
        self._said.put(message.SerializeToString())

    def hear(self) -> Iterator[pb.ToNode]:
        """Until the server drains it."""
        for data in self._heard:
            self._note("Attend", server=[data])
            yield pb.ToNode.FromString(data)

    def download(self, session: bytes, work: pb.Work) -> bytes:
        if not work.body_bytes:
            return b""
        asked = pb.DownloadRequest(session=session, sha256=work.body_sha256).SerializeToString()
        chunks = list(self._of["Download"](asked))
        self._note("Download", node=[asked], server=chunks)
        return b"".join(pb.Chunk.FromString(chunk).data for chunk in chunks)

    def deliver(self, session: bytes, task_id: str, data: bytes) -> None:
        """An answer."""
        named = {"session": session, "task_id": task_id, "sha256": sha256(data).digest()}
        asked = pb.HeldRequest(**named).SerializeToString()
        self._note("Held", node=[asked], server=[self._of["Held"](asked)])
        start = pb.UploadStart(**named, content=pb.CONTENT_PLAIT, size=len(data))
        parts = [part.SerializeToString() for part in (pb.UploadPart(start=start), pb.UploadPart(data=data))]
        self._note("Upload", node=parts, server=[self._of["Upload"](iter(parts))])

    def _note(self, call: str, *, node: list[bytes] = [], server: list[bytes] = []) -> None:  # noqa: B006
        said = {"node": [data.hex() for data in node], "server": [data.hex() for data in server]}
        self.calls.append({"call": call} | {side: data for side, data in said.items() if data})


def recorded() -> dict[str, object]:
    """A whole run: what is given to the node, and its calls."""
    base = fingerprint_base(unpack_tiny())
    device = Device(bytes.fromhex(base))
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        probe.close()
        command = [sys.executable, "-c", SERVER, "server", *OPTIONS, "--listen", address, "--out", f"{folder}/run"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(timeout=300)
                calls = _take_part(Recording(channel), device)
            assert server.wait(timeout=180) == 0
        finally:
            server.kill()
    given = {"name": NAME, "key": KEY.hex(), "nonce": NONCE.hex(), "base_fingerprint": base, "counts": COUNTS}
    return {"level": "minimal", "given": given, "calls": calls}


def _take_part(recording: Recording, device: Device) -> list[dict[str, object]]:
    recording.say(pb.FromNode(hello=pb.Hello(protocol=1, name=NAME, public_key=device.public_key, nonce=NONCE)))
    session = b""
    for heard in recording.hear():
        match heard.WhichOneof("event"):
            case "challenge":
                recording.say(pb.FromNode(proof=pb.Proof(signature=device.prove(heard.challenge.nonce))))
            case "welcome":
                session = heard.welcome.session
                fingerprint = heard.welcome.base_fingerprint
                ready = pb.Ready(base_fingerprint=fingerprint, methods=["lora"], run_id=heard.welcome.run_id)
                recording.say(pb.FromNode(ready=ready))
            case "work":
                data = heard.work.head + recording.download(session, heard.work)
                recording.deliver(session, heard.work.task_id, device.answer(data))
            case "drain":
                return recording.calls
            case _:
                raise AssertionError(str(heard))
    raise AssertionError("the call has ended")


def text_of(run: dict[str, object]) -> str:
    return json.dumps(run, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text_of(recorded()))
