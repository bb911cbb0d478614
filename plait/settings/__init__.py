"""The settings of a run by table: each has its default, bounds and help in one place, and is written once."""

from __future__ import annotations

from plait.settings.pace import Asynchronous, Fleets
from plait.settings.privacy import Masks, Privacy
from plait.settings.table import MOST_EXAMPLES, SettingsTable
from plait.settings.tables import (
    AdapterSettings,
    Checks,
    Cohort,
    EvaluationSettings,
    Learning,
    MachineSettings,
    OptimizerSettings,
    Reporting,
    Samples,
    Stacking,
    Withdrawal,
)

TABLES: tuple[type[SettingsTable], ...] = (
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

OPTIONAL: tuple[type[SettingsTable], ...] = (Asynchronous, Fleets, Privacy, Samples, Masks, Stacking, Withdrawal)
"""Those of which nothing is recorded where none of their settings is given; they come after the others."""

__all__ = [
    "MOST_EXAMPLES",
    "OPTIONAL",
    "TABLES",
    "AdapterSettings",
    "Asynchronous",
    "Checks",
    "Cohort",
    "EvaluationSettings",
    "Fleets",
    "Learning",
    "MachineSettings",
    "Masks",
    "OptimizerSettings",
    "Privacy",
    "Reporting",
    "Samples",
    "SettingsTable",
    "Stacking",
    "Withdrawal",
]
