"""Several devices: simulated clients in a process for each."""

from plait.feature import Feature

FEATURE = Feature(
    name="cards",
    help="runs over several devices",
)
