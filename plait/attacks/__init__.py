"""Attacks on a finished run: what its adapter reveals of its training data."""
