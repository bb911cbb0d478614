"""The settings of a run by table: each has its default, bounds and help in one place, and is written once."""
