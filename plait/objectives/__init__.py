"""What clients learn, as ``--objective`` names it: to write texts and chats (`sft`), preferences, or a reward."""

from plait.objectives.named import objective_named, objective_recorded, usual_objective
from plait.objectives.objective import SFT, Objective

__all__ = ["SFT", "Objective", "objective_named", "objective_recorded", "usual_objective"]
