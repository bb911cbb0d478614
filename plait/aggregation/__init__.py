"""Aggregation rules, by families; server optimizers; how far a round was off."""

from plait.aggregation.diagnostics import Observer
from plait.aggregation.geometry import BOTH_SIDES, Geometry, Side, geometry_of, slices_of
from plait.aggregation.low_rank import LowRank
from plait.aggregation.rule import (
    ANY_RANK,
    Algorithm,
    Contribution,
    Exactness,
    Memory,
    Outcome,
    Resizing,
    RoundContext,
    Rule,
)
from plait.aggregation.server_step import OptimizerState, ServerOptimizer
from plait.aggregation.table import (
    OPTIMIZERS,
    RULES,
    check_rule,
    method_stated,
    optimizer_for,
    optimizer_stated,
    rule_named,
    rule_stated,
    rules_for,
)

__all__ = [
    "ANY_RANK",
    "BOTH_SIDES",
    "OPTIMIZERS",
    "RULES",
    "Algorithm",
    "Contribution",
    "Exactness",
    "Geometry",
    "LowRank",
    "Memory",
    "Observer",
    "OptimizerState",
    "Outcome",
    "Resizing",
    "RoundContext",
    "Rule",
    "ServerOptimizer",
    "Side",
    "check_rule",
    "geometry_of",
    "method_stated",
    "optimizer_for",
    "optimizer_stated",
    "rule_named",
    "rule_stated",
    "rules_for",
    "slices_of",
]
