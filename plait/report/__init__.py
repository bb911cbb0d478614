"""Tables, plots and a page about a run, from its ledger alone; and estimates of a run's cost, by arithmetic."""

from plait.report.estimate import CostEstimate, CostInputs, estimate_tables, lora_parameters
from plait.report.privacy import (
    client_epsilon_table,
    membership_table,
    privacy_tables,
    secure_aggregation_table,
    together_table,
)
from plait.report.queue import queue_tables
from plait.report.status import status_tables
from plait.report.summary import summarise
from plait.report.table import Table, to_rich
from plait.report.tables import report_tables
from plait.report.write import write_report

__all__ = [
    "CostEstimate",
    "CostInputs",
    "Table",
    "client_epsilon_table",
    "estimate_tables",
    "lora_parameters",
    "membership_table",
    "privacy_tables",
    "queue_tables",
    "report_tables",
    "secure_aggregation_table",
    "status_tables",
    "summarise",
    "to_rich",
    "together_table",
    "write_report",
]
