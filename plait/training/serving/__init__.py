"""One base and many adapters that generate text at once: the engine of `plait serve`."""

from plait.training.sampling_limits import Limits
from plait.training.serving.adapter import ServedAdapter
from plait.training.serving.engine import Engine, Finish, Generation, Piece
from plait.training.serving.sampling import Sampling
from plait.training.serving.threads import choose_threads

__all__ = ["Engine", "Finish", "Generation", "Limits", "Piece", "Sampling", "ServedAdapter", "choose_threads"]
