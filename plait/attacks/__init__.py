"""Attacks on a finished run: what its adapter tells of the data that it was trained on."""
