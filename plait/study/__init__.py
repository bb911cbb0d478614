"""Runs as data: what their ledgers hold as pandas frames, and several runs compared."""

from plait.study.comparison import Comparison, compare
from plait.study.frames import losses, rounds, updates

__all__ = ["Comparison", "compare", "losses", "rounds", "updates"]
