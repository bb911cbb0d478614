"""Runs as data: what their ledgers hold as pandas frames."""

from plait.study.frames import losses, rounds, updates

__all__ = ["losses", "rounds", "updates"]
