"""A standing server: a queue of runs, which an operator submits, served to clients that stay connected."""

from plait.feature import Feature

FEATURE = Feature(
    name="standing",
    help="a standing server, with a queue of runs",
    verbs={
        "server --stay": "plait.features.standing.verbs:server",
        "submit": "plait.features.standing.verbs:submit",
        "runs": "plait.features.standing.verbs:runs",
        "cancel": "plait.features.standing.verbs:cancel",
        "fetch": "plait.features.standing.verbs:fetch",
    },
)
