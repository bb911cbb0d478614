"""One base and many adapters that write text at once: what `plait serve` puts behind HTTP."""

from plait.training.serving.adapter import ServedAdapter
from plait.training.serving.engine import Engine, Finish, Generation, Limits, Piece
from plait.training.serving.sampling import Sampling

__all__ = ["Engine", "Finish", "Generation", "Limits", "Piece", "Sampling", "ServedAdapter"]
