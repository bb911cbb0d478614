"""The settings of a run by table: each has its default, bounds and help in one place, and is written once."""

from __future__ import annotations

from plait.settings.table import MOST_EXAMPLES, Table
from plait.settings.tables import (
    AdapterSettings,
    Checks,
    Cohort,
    EvaluationSettings,
    Learning,
    MachineSettings,
    OptimizerSettings,
    Reporting,
)

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
