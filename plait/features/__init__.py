"""What runs can do besides plain federated rounds, a folder each; `plait.composition` joins them with the core."""
