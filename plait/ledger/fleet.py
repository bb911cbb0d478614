"""The devices of a simulated fleet, in the ledger, and what they did."""

import math
from typing import cast

from plait.ledger.events import Count, Event, EventPart, Number
from plait.ledger.run_view import RunView
from plait.system.text import Json


class FleetDevice(EventPart):
    """One kind of simulated device."""

    name: str
    count: Count = 1
    tokens_per_s: Number  # training speed, padding counted
    up_mbps: Number
    down_mbps: Number
    hours: str = ""  # hours of the day when it is on, such as ``22-6``; empty for all
    dropout: Number = 0.0  # chance that it fails during a training task
    watts: Number | None = None  # power while it works; None if unknown
    battery_wh: Number | None = None  # energy that it spends at most per day; None for no limit


class Fleet(EventPart):
    """The simulated devices of a run with a virtual clock; clients take them in turn."""

    devices: tuple[FleetDevice, ...]  # the kinds, in the order of the file
    notice_s: Number = 300.0  # seconds after which the server notices that a device has failed
    time_evaluations: bool = True  # whether evaluating takes time, too


class FleetDescribed(Event):
    """The run goes by the virtual clock of a fleet."""

    event = "fleet_described"
    fleet: Fleet


class DeviceWorked(Event):
    """One task of a simulated device, in seconds of the virtual clock."""

    event = "device_worked"
    round: Count
    client: str
    device: str = ""
    purpose: str = ""  # ``train``, ``evaluate`` or ``judge``
    began_s: Number  # when the task was sent, or the device came on
    received_s: Number  # when the device had received it
    worked_s: Number  # when it had done its work
    ended_s: Number  # when the server had its answer, or the device stopped
    outcome: str = ""  # ``answered``, ``dropped`` (it failed) or ``released`` (no longer waited for)
    energy_j: Number | None = None  # that the device spent; None if its power is not known

    @property
    def is_training(self) -> bool:
        """Whether the task was to train."""
        return self.purpose == "train"

    @property
    def pace(self) -> tuple[str, float, float] | None:
        """Of a device that trained and answered."""
        if not self.is_training or self.outcome != "answered":
            return None
        return self.client, self.worked_s - self.received_s, self.ended_s - self.began_s

    def is_repeated(self, finished: int, *, is_evaluated: bool) -> bool:
        """Tasks of later rounds, and of this one's evaluation if that had not ended."""
        return self.round > finished or (self.round == finished and not self.is_training and not is_evaluated)


def tasks_of(view: RunView) -> tuple[DeviceWorked, ...]:
    """Of simulated devices, of rounds that were interrupted only as they were run again."""
    return tuple(cast("list[DeviceWorked]", view.other_events.get(DeviceWorked.event, [])))


def figures_of(view: RunView) -> dict[str, Json]:
    """The energy that simulated devices spent, in joules; None if the power of one is not known."""
    spent = [task.energy_j for task in tasks_of(view)]
    return {"energy_j": None if not spent or None in spent else math.fsum(each or 0.0 for each in spent)}
