"""Experiment trackers: TensorBoard, Weights & Biases, MLflow, trackio and a user's own."""

from plait.feature import Feature
from plait.plugins import Kind

FEATURE = Feature(
    name="trackers",
    help="experiment trackers that follow a run",
    settings="plait.settings.tables:Trackers",
    parts={"report_to": Kind.TRACKER},
    leads_out={"report_to": ("", "none")},
    beside="plait.features.trackers.following:beside",
    check="plait.features.trackers.following:check",
)
