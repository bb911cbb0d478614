from __future__ import annotations

from collections.abc import Sequence

import pytest

from plait.errors import DataError, DiskFullError, Interrupted, PlaitError
from plait.rounds.channel import NoAnswer, Purpose
from plait.rounds.local_channel import LocalChannel, train_each
from plait.rounds.local_model import TrainJob
from plait.rounds.stop import StopRequest


class Client:
    """Trains on tasks that begin with "train"; the others it answers at once."""

    def __init__(self, number: int, seen: list[str]) -> None:
        self.number, self.seen = number, seen

    def begin(self, task_bytes: bytes):
        self.seen.append(f"begin {self.number}")
        if task_bytes.startswith(b"broken"):
            raise DataError("client 'two' has too little data")
        return (self.number, task_bytes) if task_bytes.startswith(b"train") else task_bytes + b"/%d" % self.number

    def finish(self, job, trained) -> bytes:
        self.seen.append(f"finish {self.number}")
        return b"%s: %s" % (job[1], str(trained).encode())


def channel_of(seen: list[str], *, side_by_side: int = 1, stop: StopRequest | None = None, train=None) -> LocalChannel:
    def trained(jobs: Sequence[tuple[int, bytes]]) -> list[object]:
        seen.append(f"train {[number for number, _ in jobs]}")
        return [10 * number for number, _ in jobs]

    return LocalChannel(
        lambda number: Client(number, seen), 6, train=train or trained, side_by_side=side_by_side, stop=stop
    )


def asked(channel: LocalChannel, tasks: dict[int, bytes], *, purpose: Purpose = Purpose.TRAIN) -> list[object]:
    with channel.exchange(purpose, "1") as exchange:
        for node, task in tasks.items():
            exchange.send(node, (task, b""))
        return list(iter(lambda: exchange.receive(None), None))


def test_bytes_reach_the_client_and_come_back() -> None:
    channel = channel_of([])
    assert list(channel.nodes(6)) == [0, 1, 2, 3, 4, 5]
    with channel.exchange(Purpose.DESCRIBE, "0") as exchange:
        exchange.send(1, (b"head ", b"body"))
        assert exchange.receive(None) == (1, b"head body/1")
        assert exchange.receive(None) is None


def test_a_client_works_only_when_its_answer_is_asked_for_and_only_once() -> None:
    seen: list[str] = []
    with channel_of(seen).exchange(Purpose.TRAIN, "1") as exchange:
        for node in (0, 1):
            exchange.send(node, (b"train", b""))
        assert seen == []
        assert exchange.receive(None) == (0, b"train: 0")
        assert seen == ["begin 0", "train [0]", "finish 0"]
        exchange.withdraw(1, "enough")
        assert exchange.receive(None) is None
    assert len(seen) == 3


def test_a_client_that_fails_is_no_answer_and_not_the_end_of_the_run() -> None:
    answers = asked(channel_of([]), {2: b"broken", 3: b"hello"})
    assert answers == [(2, NoAnswer("node 2 failed: client 'two' has too little data")), (3, b"hello/3")]


def test_a_stop_request_ends_the_run_before_the_next_client() -> None:
    seen: list[str] = []
    stop = StopRequest()
    with channel_of(seen, stop=stop).exchange(Purpose.EVALUATE, "1") as exchange:
        for node in (0, 1):
            exchange.send(node, (b"task", b""))
        exchange.receive(None)
        stop.asked = True
        with pytest.raises(Interrupted, match="everything received so far is saved"):
            exchange.receive(None)
    assert seen == ["begin 0"]


def test_a_full_disk_is_the_machines_fault_and_ends_the_run() -> None:
    def train(jobs: Sequence[object]) -> list[object]:
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFullError):
        asked(channel_of([], train=train), {0: b"train"})


def test_clients_that_train_side_by_side_are_those_of_one_round_in_the_order_asked() -> None:
    seen: list[str] = []
    tasks = dict.fromkeys((4, 0, 1, 3, 5), b"train") | {2: b"broken"}
    answers = asked(channel_of(seen, side_by_side=4), {node: tasks[node] for node in (4, 0, 2, 1, 3, 5)})
    assert [node for node, _ in answers] == [4, 0, 2, 1, 3, 5]
    assert [said for said in seen if said.startswith("train")] == ["train [4, 0, 1]", "train [3, 5]"]
    assert seen[:8] == [
        "begin 4", "begin 0", "begin 2", "begin 1", "train [4, 0, 1]", "finish 4", "finish 0", "finish 1"
    ]  # fmt: skip
    assert isinstance(answers[2][1], NoAnswer)


def test_only_training_is_done_side_by_side() -> None:
    seen: list[str] = []
    asked(channel_of(seen, side_by_side=4), {0: b"train", 1: b"train"}, purpose=Purpose.EVALUATE)
    assert [said for said in seen if said.startswith("train")] == ["train [0]", "train [1]"]


def test_who_is_asked_again_works_after_those_who_wait() -> None:
    channel = channel_of([], side_by_side=2)
    with channel.exchange(Purpose.TRAIN, "1") as exchange:
        for node in (0, 1, 2):
            exchange.send(node, (b"train", b""))
        first = exchange.receive(None)
        exchange.send(0, (b"train again", b""))
        rest = list(iter(lambda: exchange.receive(None), None))
    assert first == (0, b"train: 0")
    assert rest == [(1, b"train: 10"), (2, b"train: 20"), (0, b"train again: 0")]


def test_each_client_answers_for_the_error_that_ended_its_training() -> None:
    def train(jobs: Sequence[object]) -> list[object]:
        return [PlaitError("out of memory"), 7]

    assert asked(channel_of([], side_by_side=2, train=train), {0: b"train", 1: b"train"}) == [
        (0, b"train: out of memory"), (1, b"train: 7")
    ]  # fmt: skip


def test_what_is_unanswered_at_the_end_is_never_done() -> None:
    seen: list[str] = []
    channel = channel_of(seen)
    with channel.exchange(Purpose.TRAIN, "1") as exchange:
        exchange.send(0, (b"train", b""))
    assert exchange.receive(None) is None
    assert seen == []


def test_each_job_is_trained_by_its_own_model_where_nothing_else_is_said() -> None:
    class Model:
        def train(self, job):
            raise DataError("nothing to train on")

    job = TrainJob(Model(), None, None, None, None)
    assert [str(told) for told in train_each([job])] == ["nothing to train on"]
