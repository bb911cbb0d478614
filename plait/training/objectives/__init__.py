"""What clients learn from preferences and rewards: one objective per file, and their table."""

from plait.training.objectives.table import (
    OBJECTIVES,
    REWARDED,
    SFT,
    is_rewarded,
    objective_named,
    objective_stated,
)

__all__ = ["OBJECTIVES", "REWARDED", "SFT", "is_rewarded", "objective_named", "objective_stated"]
