"""The clock of a fleet, over clients that answer at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import pytest

from plait.errors import ConfigError
from plait.ledger.fleet import DeviceWorked, Fleet, FleetDevice
from plait.rounds.channel import Clock, NoAnswer, Purpose
from plait.simulation.virtual_clock import Span, VirtualChannel, VirtualClock

UPDATE_BYTES = 125_000
TASK = (bytes(1_000_000), b"")


@dataclass
class Clients:
    """Answer every task with an update of one size; `trained` names those that worked, in the order of this machine."""

    count: int
    trained: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    open_ended: bool = False
    clock: Clock = field(default_factory=Clock)

    def nodes(self, at_least: int):
        return range(self.count)

    def wait(self, timeout_s: float) -> None: ...

    def identity(self, node: int) -> None: ...

    def liveness(self, node: int) -> None: ...

    def exchange(self, purpose: Purpose, group: str) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def send(self, node: int, task) -> None:
        self.waiting.append(node)

    def withdraw(self, node: int, reason: str) -> None: ...

    def receive(self, timeout_s: float | None):
        if not self.waiting:
            return None
        node = self.waiting.pop()
        self.trained.append(node)
        return node, bytes(UPDATE_BYTES)


def worked(channel: VirtualChannel) -> Sequence[DeviceWorked]:
    return channel.clock.ended(1, {node: str(node) for node in channel.nodes(0)})


def device(name: str, tokens_per_s: float, **more) -> FleetDevice:
    # 1 MB down takes a second, 125 kB up takes a second.
    return FleetDevice(**{"name": name, "tokens_per_s": tokens_per_s, "up_mbps": 1.0, "down_mbps": 8.0, **more})


def channel_of(*devices: FleetDevice, seed: int = 0, now_s: float = 0.0, **more) -> tuple[VirtualChannel, Clients]:
    clients = Clients(sum(each.count for each in devices))
    clock = VirtualClock(Fleet(devices=devices, **more), now_s=now_s)
    return VirtualChannel(clients, clock, lambda _node, _task: 100.0, seed=seed), clients


def heard(channel: VirtualChannel, nodes, *, count: int = 99, timeout_s: float | None = None, group: str = "1"):
    """The answers to a training task in order, and when the clock stood where."""
    with channel.exchange(Purpose.TRAIN, group) as exchange:
        for node in nodes:
            exchange.send(node, TASK)
        found = []
        while len(found) < count and (answer := exchange.receive(timeout_s)):
            found.append((answer[0], isinstance(answer[1], NoAnswer), channel.clock.now()))
        return found


def test_a_task_takes_its_download_its_work_and_its_upload():
    channel, _ = channel_of(device("slow", 10), device("fast", 100))
    assert heard(channel, (0, 1)) == [(1, False, pytest.approx(3.0)), (0, False, pytest.approx(12.0))]
    fast, slow = worked(channel)
    assert (fast.device, fast.began_s, fast.received_s, fast.worked_s, fast.ended_s) == pytest.approx(
        ("fast", 0.0, 1.0, 2.0, 3.0)
    )
    assert (slow.worked_s, slow.ended_s, slow.outcome) == (pytest.approx(11.0), pytest.approx(12.0), "answered")


def test_a_device_that_is_released_has_not_trained():
    channel, clients = channel_of(device("slow", 1), device("fast", 100, watts=5.0))
    assert [node for node, *_ in heard(channel, (0, 1), count=1)] == [1]
    assert clients.trained == [1]
    by_device = {span.device: span for span in worked(channel)}
    assert (by_device["slow"].outcome, by_device["slow"].ended_s) == ("released", pytest.approx(3.0))
    assert (by_device["slow"].energy_j, by_device["fast"].energy_j) == (None, pytest.approx(15.0))


def test_a_deadline_is_one_of_virtual_time():
    channel, clients = channel_of(device("slow", 1), device("fast", 100))
    assert [node for node, *_ in heard(channel, (0, 1), timeout_s=50.0)] == [1]
    # 50 s after the last answer, of a device that needs 102 s.
    assert channel.clock.now() == pytest.approx(53.0)
    assert clients.trained == [1]


def test_the_server_notices_a_failure_after_a_while_and_the_same_ones_fail_again():
    found = []
    for _ in range(2):
        channel, clients = channel_of(device("fast", 100, count=40, dropout=0.5), notice_s=1000.0)
        found.append(heard(channel, range(40)))
        assert 10 < len(clients.trained) < 30
        failed = [span for span in worked(channel) if span.outcome == "dropped"]
        assert len(failed) == 40 - len(clients.trained)
        for span in failed:
            assert 1.0 <= span.worked_s <= 2.0
            assert span.ended_s == pytest.approx(span.worked_s + 1000.0)
    assert found[0] == found[1]
    channel, _ = channel_of(device("fast", 100, count=40, dropout=0.5), notice_s=1000.0)
    assert {node for node, fails, _ in heard(channel, range(40), group="2") if fails} != {
        node for node, fails, _ in found[0] if fails
    }


def test_a_task_that_is_sent_again_takes_the_time_of_the_first():
    """A process that was killed has lost what its clients held; on the clock nothing was lost."""
    channel, _ = channel_of(device("slow", 10))
    with channel.exchange(Purpose.TRAIN, "1") as exchange:
        exchange.send(0, TASK)
        assert exchange.receive(None)
        exchange.send(0, (bytes(9_000_000), b""))
        assert channel.clock.now() == 0.0
        assert exchange.receive(None)
    assert channel.clock.now() == pytest.approx(12.0)
    (span,) = worked(channel)
    assert (span.received_s, span.ended_s) == (pytest.approx(1.0), pytest.approx(12.0))


def test_time_passes_until_enough_devices_are_on():
    channel, _ = channel_of(device("day", 10, hours="8-20"), device("night", 10, hours="22-6"), now_s=6.5 * 3600)
    clock = channel.clock
    assert list(clock.available((0, 1), 1)) == [0]
    assert clock.now() == 8 * 3600
    with pytest.raises(ConfigError, match="fewer than 2 devices are ever on at the same time"):
        clock.available((0, 1), 2)


def test_an_empty_battery_is_full_again_at_midnight():
    spent = Span(0, "phone", "train", 0.0, 0.0, 0.0, 3600.0, "answered", energy_j=2 * 3600.0)
    fleet = Fleet(devices=(device("phone", 10, watts=2.0, battery_wh=1.5),))
    clock = VirtualClock(fleet, now_s=3600.0, spent=[spent])
    assert not clock.is_on(0)
    assert list(clock.available((0,), 1)) == [0]
    assert clock.now() == 24 * 3600
