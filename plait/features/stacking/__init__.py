"""Runs that start from existing adapters: continue training them, or freeze them beneath a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait.feature import Feature

if TYPE_CHECKING:
    from plait.config import RunConfig


def continues(config: RunConfig) -> bool:
    """Whether clients train the adapter that is given, not a new one above it."""
    return vars(config)["init_mode"] == "continue"


FEATURE = Feature(
    name="stacking",
    help="runs that start from existing adapters",
    settings="plait.features.stacking.settings:Stacking",
    leads_out={"init_adapter": ("",)},
    starts="plait.features.stacking.starting:starting_point_of",
    continues="plait.features.stacking:continues",
)
