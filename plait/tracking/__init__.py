"""Experiment trackers: TensorBoard, Weights & Biases, MLflow, trackio and a user's own, as followers of the ledger."""

from plait.tracking.followers import check_trackers, followed, send
from plait.tracking.tracker import TrackedRun, Tracker

__all__ = ["TrackedRun", "Tracker", "check_trackers", "followed", "send"]
