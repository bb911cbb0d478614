"""What clients learn from preferences and rewards: one objective per file, and their table."""

from plait.training.objectives.grpo import GRPO
from plait.training.objectives.objective import Objective, Sides
from plait.training.objectives.table import OBJECTIVES, REWARDED, SFT, SUMS, objective_named, objective_stated

__all__ = ["GRPO", "OBJECTIVES", "REWARDED", "SFT", "SUMS", "Objective", "Sides", "objective_named", "objective_stated"]
