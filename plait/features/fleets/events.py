"""The devices of a simulated fleet, in the ledger."""

from __future__ import annotations

from plait.rounds.events import Count, Event, Number, Part


class FleetDevice(Part):
    """One kind of simulated device.

    Attributes:
        name: of the kind.
        count: how many of them there are.
        tokens_per_s: training speed, padding counted.
        up_mbps: uplink in megabits per second.
        down_mbps: downlink in megabits per second.
        hours: hours of the day in which it is on, such as ``22-6``; empty for all.
        dropout: chance that it fails during a training task.
        watts: power while it works; None if unknown.
        battery_wh: energy that it spends at most per day; None for no limit.
    """

    name: str
    count: Count = 1
    tokens_per_s: Number
    up_mbps: Number
    down_mbps: Number
    hours: str = ""
    dropout: Number = 0.0
    watts: Number | None = None
    battery_wh: Number | None = None


class Fleet(Part):
    """The simulated devices of a run with a virtual clock; clients take them in turn.

    Attributes:
        devices: the kinds, in the order of the file.
        notice_s: seconds after which the server notices that a device has failed.
        time_evaluations: whether evaluating takes time, too.
    """

    devices: tuple[FleetDevice, ...]
    notice_s: Number = 300.0
    time_evaluations: bool = True


class FleetDescribed(Event):
    """The run goes by the virtual clock of a fleet."""

    event = "fleet_described"
    fleet: Fleet
