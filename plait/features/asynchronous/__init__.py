"""Asynchronous rounds: clients train whenever they are free, and a full buffer of updates is a round."""
