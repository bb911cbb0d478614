"""A gate before anything leaves: a run's adapter stays in quarantine until conditions of its operator hold."""

from plait.feature import Feature

FEATURE = Feature(
    name="gate",
    help="a run's adapter stays in quarantine until conditions hold",
    settings="plait.features.gate.settings:Gate",
    welcomed=("release_if",),
    verbs={"release": "plait.features.gate.release_verb:release"},
    events={
        "quarantined": "plait.features.gate.events:Quarantined",
        "released": "plait.features.gate.events:Released",
        "released_anyway": "plait.features.gate.events:ReleasedAnyway",
    },
    sections=("plait.features.gate.section:release_table",),
    beside="plait.features.gate.judge:judged_at_the_end",
    check="plait.features.gate.conditions:check",
    holds_back=True,
)
