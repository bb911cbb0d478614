"""Simulated devices of different speed and hours, by a virtual clock; and steps that follow how fast clients are."""

from plait.feature import Feature

FEATURE = Feature(
    name="fleets",
    help="devices of unequal speed, simulated by a virtual clock, and steps by speed",
    settings="plait.features.fleets.settings:Fleets",
    welcomed=("step_budget",),
    leads_out={"fleet": ("",)},
    events={"fleet_described": "plait.features.fleets.events:FleetDescribed"},
    plan="plait.features.fleets.run:plan",
    opens="plait.features.fleets.run:opens",
    check="plait.features.fleets.run:check",
    simulated="plait.features.fleets.simulated:by_the_clock",
    planned="plait.features.fleets.forecast:by_the_clock",
)
