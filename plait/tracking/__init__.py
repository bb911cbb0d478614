"""Experiment trackers: TensorBoard, Weights & Biases, MLflow, trackio and a user's own, as followers of the ledger."""
