"""Samples: how the base and the adapter continue the same beginnings, in the terminal and the report."""
