"""Simulated devices of different speed and hours, by a virtual clock; and steps that follow how fast clients are."""

from plait.feature import Feature

FEATURE = Feature(
    name="fleets",
    help="devices of unequal speed, simulated by a virtual clock, and steps by speed",
    settings="plait.settings.pace:Fleets",
    events={
        "fleet_described": "plait.features.fleets.events:FleetDescribed",
        "device_worked": "plait.features.fleets.events:DeviceWorked",
    },
    figures="plait.features.fleets.events:figures_of",
    plots={
        "fleet": (
            "device_worked",
            "plait.features.fleets.plot:fleet_round",
            "Gantt chart of one round: when every device received its task, trained and sent its update.",
        )
    },
)
