"""Tasks of lm-evaluation-harness on a base and its adapters."""

from plait.feature import Feature

FEATURE = Feature(
    name="tasks",
    help="what a base and its adapters reach in tasks of lm-evaluation-harness",
    verbs={"eval --tasks": "plait.features.tasks.tasks_verb:evaluate"},
    names={
        "TaskScores": "plait.features.tasks.tasks:TaskScores",
        "evaluate_tasks": "plait.features.tasks.tasks:evaluate_tasks",
    },
)
