"""Federated rounds in one process: simulated clients and the partitioners."""
