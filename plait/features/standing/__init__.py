"""Standing federations: one server for a queue of runs, which operators submit, to clients that stay connected."""

from plait.feature import Feature

FEATURE = Feature(
    name="standing",
    help="a standing server, with a queue of runs",
    verbs={
        "server --stay": "plait.features.standing.server_verb:server",
        "submit": "plait.features.standing.submit_verb:submit",
        "runs": "plait.features.standing.runs_verb:runs",
        "cancel": "plait.features.standing.cancel_verb:cancel",
        "fetch": "plait.features.standing.fetch_verb:fetch",
    },
    names={"StandingServer": "plait.features.standing.server:StandingServer"},
    journal="plait.features.standing.run_queue:JOURNAL",
)
