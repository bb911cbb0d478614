"""Experiment trackers: TensorBoard, Weights & Biases, MLflow, trackio and a user's own, as followers of the ledger."""

from plait.feature import Feature
from plait.plugins import Kind

FEATURE = Feature(
    name="trackers",
    help="experiment trackers that follow a run",
    settings="plait.features.trackers.settings:Trackers",
    parts={"report_to": Kind.TRACKER},
    leads_out={"report_to": ("", "none")},
    contracts={Kind.TRACKER: "plait.features.trackers.contract:CONTRACT"},
    verbs={"track": "plait.features.trackers.track_verb:track"},
    beside="plait.features.trackers.followers:beside",
    check="plait.features.trackers.followers:check",
)
