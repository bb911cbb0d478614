"""Trees of servers: a region gathers its clients' updates, and sends one exact sum of them to the server above it."""

from plait.feature import Feature

FEATURE = Feature(
    name="trees",
    help="regional servers, each of which sends one sum of its clients' updates",
    settings="plait.features.trees.settings:Trees",
    welcomed=("tree", "weighting", "norm_bound", "quorum", "deadline_s"),
    levels="plait.features.trees.settings:levels",
    check="plait.features.trees.settings:check",
    simulated="plait.features.trees.simulated:channel",
    verbs={"region": "plait.features.trees.region_verb:region"},
    events={
        "region_started": "plait.features.trees.events:RegionStarted",
        "region_summed": "plait.features.trees.events:RegionSummed",
    },
    verifies="plait.features.trees.events:verifies",
)
