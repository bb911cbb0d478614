"""Runs that start from existing adapters and continue training them."""

from plait.feature import Feature

FEATURE = Feature(
    name="stacking",
    help="runs that start from existing adapters",
    settings="plait.settings.tables:Stacking",
)
