"""Several devices: simulated clients in a process for each, and one base over all where none holds it."""

from plait.feature import Feature

FEATURE = Feature(
    name="cards",
    help="runs over several devices",
    spreading="plait.features.cards.spreading:SPREADING",
)
