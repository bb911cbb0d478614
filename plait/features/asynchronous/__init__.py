"""Asynchronous rounds: clients train whenever they are free, and a full buffer of updates is a round."""

from plait.feature import Feature

FEATURE = Feature(
    name="asynchronous",
    help="asynchronous rounds, which count updates as they arrive",
    settings="plait.settings.pace:Asynchronous",
    welcomed=("rounds_mode",),
    settles="plait.features.asynchronous.way:settled",
    plan="plait.features.asynchronous.way:planned",
    way="plait.features.asynchronous.way:with_buffer",
    sections=("plait.features.asynchronous.staleness:staleness_table",),
    check="plait.features.asynchronous.way:check",
)
