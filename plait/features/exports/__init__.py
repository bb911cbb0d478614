"""Exports: a run's adapter in the forms that others read."""
