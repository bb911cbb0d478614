"""Fits: whether a machine's memory is enough to train on a base, before anything is loaded."""
