"""What clients learn from preferences: one objective per file, and their table."""

from plait.training.objectives.objective import Objective, Sides
from plait.training.objectives.table import OBJECTIVES, SFT, objective_named

__all__ = ["OBJECTIVES", "SFT", "Objective", "Sides", "objective_named"]
