"""Studies: several runs compared."""

from plait.feature import Feature

FEATURE = Feature(
    name="studies",
    help="several runs compared",
    verbs={"compare": "plait.features.studies.compare_verb:compare"},
    names={
        "Comparison": "plait.features.studies.comparison:Comparison",
        "compare": "plait.features.studies.comparison:compare",
    },
)
