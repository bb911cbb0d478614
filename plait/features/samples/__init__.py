"""Samples: how the base and the adapter continue the same beginnings, in the terminal, the record and the report."""
