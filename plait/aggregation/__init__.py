"""Aggregation rules, one per file, and the table of their names."""

from collections.abc import Mapping

from plait.aggregation.fedavg import FedAvg
from plait.aggregation.rule import Accumulator, Rule

RULES: Mapping[str, Rule] = {rule.name: rule for rule in (FedAvg(),)}

__all__ = ["RULES", "Accumulator", "FedAvg", "Rule"]
