"""The settings of a run by table: each has its default, bounds and help in one place, and is written once."""

from __future__ import annotations

from plait.settings.adapter import AdapterSettings
from plait.settings.checks import Checks
from plait.settings.cohort import Cohort
from plait.settings.evaluation import EvaluationSettings
from plait.settings.learning import Learning
from plait.settings.machine import MachineSettings
from plait.settings.optimizer import OptimizerSettings
from plait.settings.reporting import Reporting
from plait.settings.table import MOST_EXAMPLES, Table

TABLES: tuple[type[Table], ...] = (
    Learning,
    AdapterSettings,
    OptimizerSettings,
    Cohort,
    Checks,
    EvaluationSettings,
    MachineSettings,
    Reporting,
)
"""In the order of files, help and documentation."""

__all__ = [
    "MOST_EXAMPLES",
    "TABLES",
    "AdapterSettings",
    "Checks",
    "Cohort",
    "EvaluationSettings",
    "Learning",
    "MachineSettings",
    "OptimizerSettings",
    "Reporting",
    "Table",
]
