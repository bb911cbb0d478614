"""Objectives beside supervised fine-tuning: from preferences, and rewards of the user's own."""

from plait.feature import Feature
from plait.plugins import Kind

_PREFERENCES = "plait.features.objectives.named:preferences"

FEATURE = Feature(
    name="objectives",
    help="learning from preferences and rewards",
    objectives={
        **dict.fromkeys(("dpo", "MODULE:CLASS"), _PREFERENCES),
        "grpo": "plait.features.objectives.named:reward",
    },
    usual_objectives={"preference": "dpo"},
    contracts={
        Kind.OBJECTIVE: "plait.features.objectives.training.contract:OBJECTIVE_CONTRACT",
        Kind.REWARD: "plait.features.objectives.training.contract:REWARD_CONTRACT",
    },
)
