"""Experiment trackers: TensorBoard, Weights & Biases, MLflow, trackio and a user's own."""

from plait.feature import Feature

FEATURE = Feature(
    name="trackers",
    help="experiment trackers that follow a run",
    settings="plait.settings.tables:Trackers",
)
