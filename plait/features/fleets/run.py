"""What a fleet and steps by speed are in a run: its plan, what its ledger says of the devices, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from plait.config import RunConfig
from plait.errors import ConfigError
from plait.features.fleets.events import FleetDescribed
from plait.features.fleets.fleet import load_fleet
from plait.features.fleets.step_budget import BySpeed
from plait.rounds.opening import Opening
from plait.rounds.run_plan import RunPlan

if TYPE_CHECKING:
    from plait.features.fleets.settings import Fleets


def settings_of(config: RunConfig) -> Fleets:
    """The settings of the feature."""
    return cast("Fleets", config)


def plan(plan: RunPlan, config: RunConfig) -> RunPlan:
    """The plan of a run whose clients take steps by their speed, if they do."""
    return replace(plan, stepping=BySpeed()) if settings_of(config).step_budget == "speed" else plan


def opens(config: RunConfig, opening: Opening) -> FleetDescribed | None:
    """What the ledger of a new run says of its devices.

    Raises:
        ConfigError: the run goes on with others than it began with.
    """
    if not (path := settings_of(config).fleet):
        return None
    now = FleetDescribed(fleet=load_fleet(path, base_parameters=opening.base_parameters))
    began = next((event for event in opening.events if isinstance(event, FleetDescribed)), now)
    if began.fleet != now.fleet:
        raise ConfigError(
            f"fleet '{path}' have changed since the run began, expected those that its ledger names; "
            "put the old file back, or begin a new run with another --out"
        )
    return now


def check(config: RunConfig, *, simulates: bool) -> None:
    """Refuse devices of clients that have their own, and a file that cannot be.

    Raises:
        ConfigError: with the reason.
    """
    if path := settings_of(config).fleet:
        if not simulates:
            raise ConfigError(f"fleet is '{path}', expected none: clients of a network have devices of their own")
        load_fleet(path, base_parameters=1)  # profiles' speeds follow once the base is known
