"""Studies: grids of settings, run one after the other or side by side, and several runs compared."""

from plait.feature import Feature

FEATURE = Feature(
    name="studies",
    help="several runs: grids of settings, and comparisons",
    verbs={
        "compare": "plait.features.studies.compare_verb:compare",
        "sweep": "plait.features.studies.sweep_verb:sweep",
    },
    names={
        "Comparison": "plait.features.studies.comparison:Comparison",
        "Sweep": "plait.features.studies.sweeping:Sweep",
        "compare": "plait.features.studies.comparison:compare",
        "sweep": "plait.features.studies.sweeping:sweep",
    },
)
