"""Asynchronous rounds: clients train whenever they are free, and a full buffer of updates is a round."""

from plait.feature import Feature

FEATURE = Feature(
    name="asynchronous",
    help="asynchronous rounds, which count updates as they arrive",
    settings="plait.settings.pace:Asynchronous",
    sections=("plait.features.asynchronous.staleness:staleness_table",),
)
