"""Runs that start from existing adapters and continue training them."""
