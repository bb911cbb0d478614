"""Federated rounds in one process: the in-process Flower Grid and the partitioners."""
