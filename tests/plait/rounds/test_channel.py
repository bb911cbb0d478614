import pytest

from plait.errors import DataError, DiskFullError, RunInterrupted
from plait.rounds.channel import LocalChannel, NoAnswer, Purpose, StopRequest


class Client:
    """Answers every task but a broken one."""

    def __init__(self, number: int, seen: list[str]) -> None:
        self.number, self.seen = number, seen

    def answer(self, task_bytes: bytes) -> bytes:
        self.seen.append(f"work {self.number}")
        if task_bytes.startswith(b"broken"):
            raise DataError("client 'two' has too little data")
        if task_bytes.startswith(b"full"):
            raise OSError(28, "No space left on device")
        return task_bytes + b"/%d" % self.number


def channel_of(seen: list[str], *, stop: StopRequest | None = None) -> LocalChannel:
    return LocalChannel(lambda number: Client(number, seen), 6, stop=stop)


def asked(channel: LocalChannel, tasks: dict[int, bytes]) -> list[object]:
    with channel.exchange(Purpose.TRAIN, "1") as exchange:
        for node, task in tasks.items():
            exchange.send(node, (task, b""))
        return list(iter(lambda: exchange.receive(None), None))


def test_a_client_works_only_when_its_answer_is_asked_for_and_only_once():
    seen: list[str] = []
    with channel_of(seen).exchange(Purpose.TRAIN, "1") as exchange:
        for node in (0, 1):
            exchange.send(node, (b"train", b""))
        assert seen == []
        assert exchange.receive(None) == (0, b"train/0")
        exchange.withdraw(1, "enough")
        assert exchange.receive(None) is None
    assert seen == ["work 0"]


def test_a_client_that_fails_is_no_answer_and_not_the_end_of_the_run():
    answers = asked(channel_of([]), {2: b"broken", 3: b"hello"})
    assert answers == [(2, NoAnswer("node 2 failed: client 'two' has too little data")), (3, b"hello/3")]


def test_a_stop_request_ends_the_run_before_the_next_client():
    seen: list[str] = []
    stop = StopRequest()
    with channel_of(seen, stop=stop).exchange(Purpose.EVALUATE, "1") as exchange:
        for node in (0, 1):
            exchange.send(node, (b"task", b""))
        exchange.receive(None)
        stop.asked = True
        with pytest.raises(RunInterrupted, match="everything received so far is saved"):
            exchange.receive(None)
    assert seen == ["work 0"]


def test_a_full_disk_is_the_machines_fault_and_ends_the_run():
    with pytest.raises(DiskFullError):
        asked(channel_of([]), {0: b"full"})
