"""What a node gives up when its server asks for something else, and what it calls the work."""

import threading
from dataclasses import dataclass, field

import pytest

from client.task import Began, ClientTask, Event, OfferedRun, Reported, TaskAnswer
from client.worker import Worker
from plait.errors import check_abandoned
from plait.rounds.channel import group_of
from plait.v1 import federation_pb2 as pb

RUN = OfferedRun(1, {}, b"")
FIRST, SECOND = b"a" * 16, b"b" * 16


def task(message_type: str, group: str) -> ClientTask:
    return ClientTask(f"{group}.{message_type}.0", message_type, group, b"", 0, b"")


@dataclass
class Busy:
    """A runner that works until its task is abandoned; also what the worker downloads from and uploads to."""

    ready: pb.Ready = field(default_factory=pb.Ready)

    def answer(self, task: ClientTask, body: bytes) -> TaskAnswer:
        while True:
            check_abandoned()

    def fetch(self, handle: object) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("asked", "is_given_up"),
    [
        (task("query.mask", group_of(3, SECOND, "keys")), True),
        (task("query.mask", group_of(3, FIRST, "signatures")), False),
        (task("query", "0"), False),
    ],
)
def test_work_of_an_attempt_ends_when_the_server_begins_another(asked, is_given_up):
    busy, events, seen = Busy(), list[Event](), threading.Semaphore(0)

    def post(event: Event) -> None:
        events.append(event)
        if isinstance(event, Began | Reported):
            seen.release()

    worker = Worker(lambda _: busy, downloads=busy, uploads=busy, post=post)  # pyright: ignore[reportArgumentType]
    try:
        worker.move_to(RUN)
        worker.take(task("train", group_of(3, FIRST)))
        assert seen.acquire(timeout=180)
        worker.take(asked)
        assert worker.current is not None
        if is_given_up:
            assert seen.acquire(timeout=180)
            assert any(isinstance(event, Reported) and event.event == "dropped" for event in events)
        else:
            assert not worker.current.abandonment.is_asked
    finally:
        worker.close()


def test_a_node_does_not_end_while_it_loads_a_base_that_is_soon_there():
    loading, loaded, done = threading.Event(), threading.Event(), list[str]()

    def load(_: OfferedRun) -> Busy:
        loading.set()
        loaded.wait()
        done.append("base")
        return busy

    busy = Busy()
    worker = Worker(load, downloads=busy, uploads=busy, post=lambda _: None)  # pyright: ignore[reportArgumentType]
    worker.move_to(RUN)
    assert loading.wait(180)
    soon = threading.Timer(0.2, loaded.set)
    soon.start()
    worker.close()
    assert done == ["base"]
    soon.join()
