"""A feature from outside plait: each round keeps the updates with the smallest norms."""

from plait.feature import Feature
from plait.traits import Trait

FEATURE = Feature(
    name="smallest",
    help="keeps each round's updates with the smallest norms",
    settings="smallest.settings:Smallest",
    events={"left_out_as_large": "smallest.fold:LeftOutAsLarge"},
    sections=("smallest.report:left_out_table",),
    figures="smallest.report:figures_of",
    plots={"left_out": ("left_out_as_large", "smallest.report:left_out_plot", "Bars: clients left out, by round.")},
    needs={Trait.SINGLE_UPDATES: "their norms are compared"},
    way="smallest.fold:with_smallest",
)
