"""Simulated devices of different speed and hours, by a virtual clock; and steps that follow how fast clients are."""
