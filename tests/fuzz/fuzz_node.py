"""A server's messages to a node: those of the long call as the node processes them, and chunks of bodies."""

import queue
import threading

import grpc
from google.protobuf.message import DecodeError
from harness import instrumented, main

with instrumented():
    from client.connection import Connection
    from client.session import CurrentSession, Session
    from client.task import ClientTask
    from plait.transport.protocol import pack_chunk, unpack_chunk
    from plait.v1 import federation_pb2 as pb

CHANNEL = grpc.insecure_channel("localhost:1")


def parse(data: bytes) -> None:
    try:
        message = pb.ToNode.FromString(data)
    except DecodeError:
        message = None
    try:
        chunk = bytes(unpack_chunk(data))
    except DecodeError:
        chunk = None
    if chunk is not None and chunk != pb.Chunk.FromString(data).data:
        raise ValueError("a chunk was read otherwise than by protobuf")
    if message is None:
        return
    told: queue.SimpleQueue = queue.SimpleQueue()
    connection = Connection.__new__(Connection)
    connection.post, connection.sessions, connection.backoff = told.put, CurrentSession(), Patience()
    connection._room = threading.Semaphore(1)
    session = Session(CHANNEL, pb.Welcome(), send=[].append)
    if message.HasField("welcome"):
        connection._welcome(message.welcome, CHANNEL)
    elif message.HasField("refused"):
        connection._refused(message.refused)
    else:
        connection._hand_on(message, session)
    while not told.empty():
        event = told.get()
        if isinstance(getattr(event, "task", None), ClientTask) and not event.task.doing.isprintable():
            raise ValueError("control characters would reach a terminal")


class Patience:
    def reset(self):
        pass


def seeds() -> list[bytes]:
    work = pb.Work(
        task_id="1.train.0", message_type="train", group_id="1", head=b"head", body_bytes=9,
        body_sha256=bytes(32),
    )  # fmt: skip
    welcome = pb.Welcome(session=b"s" * 32, node_id=5, run_id=7, run_config_json='{"rounds":3,"rate":0.5}')
    messages = [
        pb.ToNode(work=work),
        pb.ToNode(welcome=welcome),
        pb.ToNode(challenge=pb.Challenge(nonce=b"n" * 32)),
        pb.ToNode(refused=pb.Refused(reason=pb.REFUSED_REASON_FULL, detail="later")),
        pb.ToNode(withdraw=pb.Withdraw(task_id="1.train.0", reason="deadline")),
        pb.ToNode(drain=pb.Drain(finished=True)),
        pb.ToNode(receipt=pb.Receipt(kept=True, task_id="1.train.0")),
    ]
    return [*(message.SerializeToString() for message in messages), pack_chunk(b"body" * 40)]


if __name__ == "__main__":
    main(parse, seeds())
